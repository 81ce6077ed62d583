"""From a model to an artifact: plan, convert, build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from compiler.cli.options import AskOptions, Json, LimitOptions, ModelOptions, grouped, request_of
from compiler.cli.output import reporting, show


@dataclass(frozen=True)
class BuildOptions:
    """What only a build is asked."""

    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make [default: artifacts/MODEL-TARGET-tpN]")
    ] = None
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with the tokenizer to pack.")] = None
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What it will run on.")] = "cpu"
    march: Annotated[str, typer.Option(help="CPU level, or `native`.")] = "x86-64-v3"
    jobs: Annotated[int | None, typer.Option(help="Compile processes [default: one a core]")] = None
    name: Annotated[str | None, typer.Option(help="Name in the manifest.")] = None
    until: Annotated[str, typer.Option(help="Last stage: plan, convert, compile, package, verify.")] = "verify"
    force: Annotated[bool, typer.Option("--force", help="Replace another artifact at OUTPUT.")] = False
    rehash: Annotated[bool, typer.Option("--rehash", help="Trust no digest computed before.")] = False


@grouped
def plan(model: ModelOptions, ask: AskOptions, limits: LimitOptions, as_json: Json = False) -> None:
    """Say what a build would do, from config.json and the safetensors headers alone."""
    from compiler.requests import PlanRequest, prepare
    from compiler.summary import plan_text

    made = prepare(request_of(PlanRequest, model, ask, limits)).plan
    show(made.to_json(), plan_text(made), as_json=as_json)


@grouped
def convert(
    model: ModelOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    ask: AskOptions,
    as_json: Json = False,
) -> None:
    """Write the rank files of a model, and nothing else."""
    from compiler.pipeline import convert_to
    from compiler.requests import PlanRequest
    from compiler.summary import plan_text

    request = request_of(PlanRequest, model, ask, LimitOptions(max_batch=1))
    with reporting() as report:
        made = convert_to(request, output, report)
    show(made.to_json(), plan_text(made), as_json=as_json)


@grouped
def build(
    model: ModelOptions, ask: AskOptions, limits: LimitOptions, options: BuildOptions, as_json: Json = False
) -> None:
    """Build, verify and put in place an artifact; what an earlier build made is not made again."""
    from dataclasses import asdict

    from compiler.pipeline import build as run
    from compiler.requests import BuildRequest, default_output
    from compiler.summary import build_text

    given = asdict(options)
    given["output"] = options.output or default_output(model.model, ask.target, ask.tp, ask.dtype)
    request = request_of(BuildRequest, model, ask, limits, **given)
    with reporting() as report:
        result = run(request, report)
    show(result.to_json(), build_text(result), as_json=as_json)
