"""Commands from a model to an artifact: plan, convert, build, package."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from compiler.cli.groups import grouped
from compiler.cli.options import (
    ArtifactArgument,
    AskOptions,
    GateOptions,
    Json,
    LimitOptions,
    MemoryOptions,
    ModelOptions,
    QuantOptions,
    RequestOptions,
    quant_of,
    request_of,
)
from compiler.cli.output import kept_stages, reporting, show
from compiler.cli.properties import completed
from compiler.cli.target_options import OwnOptions

if TYPE_CHECKING:
    from compiler.report import Report


@dataclass(frozen=True)
class BuildOptions:
    """Output, stages and stage cache of a build."""

    panel: ClassVar[str] = "Output"

    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Folder, or s3:// store to push to [default: artifacts/MODEL-TARGET-tpN]"),
    ] = None
    cache: Annotated[str | None, typer.Option(help="Store with a team's shared stage cache, s3://bucket/prefix.")] = (
        None
    )
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with another tokenizer to pack.")] = None
    name: Annotated[str | None, typer.Option(help="Name in the manifest.")] = None
    until: Annotated[str, typer.Option(help="Last stage: plan, convert, judge, compile, package or verify.")] = "verify"
    force: Annotated[bool, typer.Option("--force", help="Replace another artifact at OUTPUT.")] = False
    rehash: Annotated[bool, typer.Option("--rehash", help="Compute all digests again.")] = False


@dataclass(frozen=True)
class CompileOptions:
    """Options of the compile stage."""

    panel: ClassVar[str] = "Compile"

    device: Annotated[
        str | None, typer.Option(help="Device to compile for, such as cpu or cuda [default: the target's]")
    ] = None
    march: Annotated[str | None, typer.Option(help="CPU instruction-set level, or `native` [default: x86-64-v3]")] = (
        None
    )
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "--workers", help="Parallel compile processes [default: by cores and memory]", min=1),
    ] = None
    timeout: Annotated[float | None, typer.Option(help="Time limit of a compile process in seconds.", min=1)] = None


@grouped
def plan(
    model: ModelOptions,
    ask: AskOptions,
    own: OwnOptions,
    quant: QuantOptions,
    limits: LimitOptions,
    gate: GateOptions,
    memory: MemoryOptions,
    as_json: Json = False,
) -> None:
    """Plan a build from config.json and safetensors headers alone."""
    from compiler import targets
    from compiler.cli.parse import parse_size
    from compiler.cli.text import alternative_json, alternatives_text, calibration_text, plan_text
    from compiler.pipeline.alternatives import alternatives
    from compiler.pipeline.estimate import CALIBRATING, measured_rates, stage_seconds
    from compiler.pipeline.located import plan_of
    from compiler.pipeline.request import Resources

    asked, found = completed(RequestOptions(model, ask, own, limits), quant)
    made = plan_of(request_of(asked, quant_of(quant, gate, found), Resources(parse_size(memory.max_memory))))
    choices, text, facts = alternatives(made, targets.load(made.target)), made.quant.text, made.to_json()
    took = stage_seconds(made, measured_rates(made.quant.device))
    facts["stages"] = [{**stage, "seconds": took.get(stage["stage"])} for stage in facts["stages"]]
    parts = [plan_text(made, took), alternatives_text(choices)]
    speed = targets.load(made.target).runtime.speed(made)
    facts["here"] = [asdict(finding) for finding in speed]
    parts += [f"{finding.subject} on this machine: {finding.text}" for finding in speed]
    if made.quant.calibrated:
        tokens = text.tokens(made.config.max_positions)
        facts["calibration_seconds"] = sum(took.get(stage, 0.0) for stage in CALIBRATING)
        parts.append(calibration_text(tokens, facts["calibration_seconds"]))
    facts["quantisations"] = [alternative_json(choice) for choice in choices]
    show(facts, "\n\n".join(parts), as_json=as_json)


@grouped
def convert(
    model: ModelOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to create.")],
    ask: AskOptions,
    own: OwnOptions,
    quant: QuantOptions,
    memory: MemoryOptions,
    as_json: Json = False,
) -> None:
    """Write only the rank files of a model."""
    from compiler.cli.parse import parse_size
    from compiler.cli.text import plan_text
    from compiler.pipeline.convert_only import convert_to
    from compiler.pipeline.request import Resources

    asked, found = completed(RequestOptions(model, ask, own, LimitOptions()), quant)
    asked = replace(asked, limits=replace(asked.limits, max_batch=asked.limits.max_batch or 1))
    resources = Resources(parse_size(memory.max_memory))
    request = request_of(asked, quant_of(quant, GateOptions(), found), resources)
    with reporting(as_json=as_json) as report:
        made = convert_to(request, output, report)
    show(made.to_json(), plan_text(made), as_json=as_json)


@grouped
def build(
    model: ModelOptions,
    ask: AskOptions,
    own: OwnOptions,
    quant: QuantOptions,
    gate: GateOptions,
    limits: LimitOptions,
    memory: MemoryOptions,
    options: BuildOptions,
    how: CompileOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the target's compile command.")] = False,
    as_json: Json = False,
) -> None:
    """Build and verify an artifact, reusing earlier results."""
    from compiler.cli.parse import default_output, parse_size
    from compiler.cli.text import build_text
    from compiler.pipeline.build import build as run
    from compiler.pipeline.build import command_of
    from compiler.pipeline.request import BuildRequest, Resources
    from compiler.registry.address import is_store, parse_address

    asked, found = completed(RequestOptions(model, ask, own, limits), quant)
    wanted = quant_of(quant, gate, found)
    store = options.output if is_store(options.output) else None
    if store:
        parse_address(store)  # refused now rather than after the build
    resources = Resources(parse_size(memory.max_memory), how.jobs, how.timeout, options.cache)
    plain, scheme = request_of(asked, wanted, resources), wanted.scheme.name if wanted.scheme else ""
    request = BuildRequest(
        **vars(plain),
        output=Path(options.output)
        if options.output and not store
        else default_output(plain.model, plain.target, plain.ask.tp, plain.ask.dtype, scheme),
        name=options.name,
        tokenizer=options.tokenizer,
        device=how.device,
        march=how.march,
        until=options.until,
        force=options.force,
        rehash=options.rehash,
    )
    if dry_run:
        line = command_of(request)
        show(line, shlex.join(line), as_json=as_json)
        return
    with reporting(as_json=as_json, kept=kept_stages(), max_memory=resources.max_memory) as report:
        result = run(request, report)
        pushed = _push(result.output, store, report) if store and result.manifest else None
    text = build_text(result.output, result.manifest)
    if pushed:
        text = f"{pushed[1]}\nhere    {result.output}"
    show(result.to_json() | ({"pushed": pushed[0]} if pushed else {}), text, as_json=as_json)


def _push(artifact: Path, store: str, report: Report) -> tuple[dict[str, Any], str]:
    """The pushed artifact, as JSON and as text. Only a build into a store imports the client of stores."""
    from compiler.registry.push import push
    from compiler.registry.summary import pushed_text

    pushed = push(artifact, store, report)
    return pushed.to_json(), pushed_text(pushed)


def package(
    artifact: ArtifactArgument,
    engines: Annotated[
        Path | None, typer.Option(help="Folder of the engines [default: where the command file puts them]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to create [default: ARTIFACT-engines]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another artifact at OUTPUT.")] = False,
    as_json: Json = False,
) -> None:
    """Package engines that were built elsewhere from a checkpoint."""
    from compiler.cli.text import manifest_text
    from compiler.pipeline.elsewhere import package_engines

    with reporting(as_json=as_json) as report:
        place, manifest = package_engines(artifact, engines, output, report, force=force)
    show({"output": str(place), "digest": manifest.digest}, f"{place}\n\n{manifest_text(manifest)}", as_json=as_json)
