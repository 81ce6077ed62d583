"""The command line. A command parses, makes one typed request, makes one call, prints one summary. No logic.

Results go to stdout, everything else to stderr. Nothing heavy is imported before a command needs it: `--help`
answers in a fraction of a second.
"""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from compiler.errors import LmiCompileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.report import Lines

app = typer.Typer(
    name="lmi-compile",
    help="Compile Hugging Face models ahead of time into sharded, verified artifacts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="The stage cache.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")

ModelOption = Annotated[str, typer.Option("--model", help="Recipe name, Hugging Face id, folder or s3:// prefix.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="Read it with this recipe.")]
VariantOption = Annotated[str | None, typer.Option("--variant", help="Where config.json cannot tell.")]
Tp = Annotated[str, typer.Option(help="Ranks: a number, or `max`.", metavar="N|max")]
InstanceType = Annotated[str | None, typer.Option(help="Whose devices `--tp max` counts.")]
TargetOption = Annotated[str, typer.Option("--target", help="Toolchain.")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16, float16 or float32 [default: the checkpoint's]")]
MaxPositions = Annotated[int | None, typer.Option(help="Tokens of one row [default: all of the model's]")]
MaxBatch = Annotated[int, typer.Option(help="Rows at once.")]
RopeScaling = Annotated[str | None, typer.Option(help="Longer contexts: linear:2, llama3:8.")]
TrtllmVersion = Annotated[str, typer.Option(help="TensorRT-LLM of target trtllm [default: 0.12.0]")]
MaxMemory = Annotated[str, typer.Option(help="Ceiling of convert's buffers.", metavar="SIZE")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")]
Device = Literal["cpu", "cuda"]
Json = Annotated[bool, typer.Option("--json", help="For scripts.")]
ArtifactArgument = Annotated[Path, typer.Argument(help="Folder of an artifact.", metavar="ARTIFACT")]


@app.callback(invoke_without_command=True)
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A traceback with every error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Compile Hugging Face models ahead of time into sharded, verified artifacts."""
    del verbose  # looked up by `main`, which sees errors after the commands are gone
    if version:
        from compiler import __version__

        typer.echo(__version__)


@app.command()
def models(as_json: Json = False) -> None:
    """List the recipes, the architectures they read and the names that `--model` knows."""
    import recipes
    from compiler import targets
    from compiler.summary import models_text

    loaded = {name: recipes.load(name) for name in recipes.available()}
    rows: list[dict[str, Any]] = [
        {
            "recipe": name,
            "architectures": list(recipe.hf_architectures),
            "models": dict(recipe.models),
            "targets": list(targets.available()),
        }
        for name, recipe in loaded.items()
    ]
    _print(rows, models_text(rows), as_json=as_json)


@app.command()
def plan(
    model: ModelOption,
    tp: Tp = "1",
    revision: Revision = None,
    recipe: RecipeOption = None,
    variant: VariantOption = None,
    instance_type: InstanceType = None,
    target: TargetOption = "inductor",
    dtype: Dtype = None,
    max_positions: MaxPositions = None,
    max_batch: MaxBatch = 8,
    rope_scaling: RopeScaling = None,
    trtllm_version: TrtllmVersion = "",
    max_memory: MaxMemory = "1GiB",
    as_json: Json = False,
) -> None:
    """Say what a build would do, from config.json and the safetensors headers alone."""
    from compiler.requests import PlanRequest, prepare
    from compiler.summary import plan_text

    request = PlanRequest(
        **_model_fields(model, revision, recipe, target),
        **_ask_fields(
            tp, instance_type, dtype, max_positions, max_batch, rope_scaling, variant, max_memory, trtllm_version
        ),
    )
    made = prepare(request).plan
    _print(made.to_json(), plan_text(made), as_json=as_json)


@app.command()
def convert(
    model: ModelOption,
    output: Output,
    tp: Tp = "1",
    revision: Revision = None,
    recipe: RecipeOption = None,
    variant: VariantOption = None,
    instance_type: InstanceType = None,
    target: TargetOption = "inductor",
    dtype: Dtype = None,
    rope_scaling: RopeScaling = None,
    trtllm_version: TrtllmVersion = "",
    max_memory: MaxMemory = "1GiB",
    as_json: Json = False,
) -> None:
    """Write the rank files of a model, and nothing else."""
    from compiler.pipeline import convert_to
    from compiler.requests import PlanRequest
    from compiler.summary import plan_text

    request = PlanRequest(
        **_model_fields(model, revision, recipe, target),
        **_ask_fields(tp, instance_type, dtype, None, 1, rope_scaling, variant, max_memory, trtllm_version),
    )
    with _report() as report:
        made = convert_to(request, output, report)
    _print(made.to_json(), plan_text(made), as_json=as_json)


@app.command()
def build(
    model: ModelOption,
    tp: Tp = "1",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make [default: artifacts/MODEL-TARGET-tpN]")
    ] = None,
    revision: Revision = None,
    recipe: RecipeOption = None,
    variant: VariantOption = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with the tokenizer to pack.")] = None,
    instance_type: InstanceType = None,
    target: TargetOption = "inductor",
    device: Annotated[Device, typer.Option(help="What it will run on.")] = "cpu",
    march: Annotated[str, typer.Option(help="CPU level, or `native`.")] = "x86-64-v3",
    dtype: Dtype = None,
    max_positions: MaxPositions = None,
    max_batch: MaxBatch = 8,
    rope_scaling: RopeScaling = None,
    max_memory: MaxMemory = "1GiB",
    jobs: Annotated[int | None, typer.Option(help="Compile processes [default: one a core]")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the manifest.")] = None,
    until: Annotated[str, typer.Option(help="Last stage: plan, convert, compile, package, verify.")] = "verify",
    force: Annotated[bool, typer.Option("--force", help="Replace another artifact at OUTPUT.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Trust no digest computed before.")] = False,
    as_json: Json = False,
) -> None:
    """Build, verify and put in place an artifact; what an earlier build made is not made again."""
    from compiler.pipeline import build as run
    from compiler.requests import BuildRequest, default_output
    from compiler.summary import build_text

    request = BuildRequest(
        **_model_fields(model, revision, recipe, target),
        **_ask_fields(tp, instance_type, dtype, max_positions, max_batch, rope_scaling, variant, max_memory),
        output=output or default_output(model, target, tp, dtype),
        name=name,
        tokenizer=tokenizer,
        device=device,
        march=march,
        jobs=jobs,
        until=until,
        force=force,
        rehash=rehash,
    )
    with _report() as report:
        result = run(request, report)
    _print(result.to_json(), build_text(result), as_json=as_json)


@app.command()
def inspect(artifact: ArtifactArgument, as_json: Json = False) -> None:
    """Print what an artifact's manifest says."""
    from compiler.artifact.manifest import load_manifest
    from compiler.summary import manifest_text

    manifest = load_manifest(artifact)
    _print(manifest.model_dump(mode="json"), manifest_text(manifest), as_json=as_json)


@app.command()
def verify(
    artifact: ArtifactArgument,
    model: Annotated[str | None, typer.Option(help="Its source: do not believe the stored logits.")] = None,
    revision: Revision = None,
    variant: VariantOption = None,
    as_json: Json = False,
) -> None:
    """Check an artifact: digests, layout, and its logits against those of the source model."""
    from compiler.against import source_logits
    from compiler.requests import PlanRequest
    from compiler.stages.plan import Ask
    from compiler.stages.verify import verify as run
    from compiler.summary import numerics_text

    expected = None
    if model is not None:
        request = PlanRequest(**_model_fields(model, revision, None, "inductor"), ask=Ask(variant=variant))
        expected = source_logits(artifact, request)
    with _report() as report:
        report.begin("verify")
        manifest = run(
            artifact,
            expected=expected,
            progress=lambda done, total: report.progress(done, total, "bytes"),
        )
        report.end(f"{len(manifest.files)} files")
    numerics = manifest.numerics.model_dump(mode="json") if manifest.numerics else None
    _print({"name": manifest.name, "numerics": numerics}, numerics_text(manifest), as_json=as_json)


@app.command()
def generate(
    artifact: ArtifactArgument,
    prompts: Annotated[list[str], typer.Argument(help="One or more; `-` reads one a line from stdin.")],
    max_new_tokens: Annotated[int, typer.Option(help="At most so many.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Ends the answer; may be repeated.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end token.")] = False,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="The log probability of every token.")] = False,
    stream: Annotated[bool, typer.Option(help="Print the text as it comes (one prompt).")] = True,
    as_json: Json = False,
) -> None:
    """Answer prompts with an artifact."""
    from compiler.answer import answer
    from compiler.runtime.params import GenerationParams

    params = GenerationParams(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        ignore_eos=ignore_eos,
    )
    answer(artifact, prompts, params, sys.stdout, stream=stream, log_probs=logprobs, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what can be built and run on this machine, and why not."""
    from dataclasses import asdict

    from compiler.stages.doctor import doctor as look
    from compiler.store.cache import cache_folder
    from compiler.summary import diagnosis_text

    diagnosis = look(cache_folder())
    _print(asdict(diagnosis), diagnosis_text(diagnosis), as_json=as_json)


@cache_app.command("ls")
def cache_ls(as_json: Json = False) -> None:
    """List what the stage cache holds."""
    from dataclasses import asdict

    from compiler.store.cache import StageCache, cache_folder
    from compiler.summary import cache_text

    entries = StageCache(cache_folder(), warn=_warn).stored()
    _print([asdict(entry) for entry in entries], cache_text(entries), as_json=as_json)


@cache_app.command("clear")
def cache_clear(as_json: Json = False) -> None:
    """Remove everything from the stage cache. Artifacts keep their files."""
    from compiler.report import amount
    from compiler.store.cache import StageCache, cache_folder

    freed = StageCache(cache_folder(), warn=_warn).clear()
    _print({"bytes": freed}, f"{amount(freed, 'bytes')} removed", as_json=as_json)


def main() -> None:
    """Run the command line; every error of ours ends as message, hint and exit code."""
    try:
        app()
    except LmiCompileError as error:
        if {"-v", "--verbose"} & set(sys.argv[1:]):
            traceback.print_exc()
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


def _model_fields(model: str, revision: str | None, recipe: str | None, target: str) -> dict[str, Any]:
    import recipes

    return {"model": model, "recipes": recipes, "revision": revision, "recipe": recipe, "target": target}


def _ask_fields(
    tp: str,
    instance_type: str | None,
    dtype: str | None,
    max_positions: int | None,
    max_batch: int,
    rope_scaling: str | None,
    variant: str | None,
    max_memory: str,
    trtllm_version: str = "",
) -> dict[str, Any]:
    from compiler.ir.config import parse_rope_scaling
    from compiler.lmi.instances import instance
    from compiler.requests import devices_here, parse_size, parse_tp
    from compiler.stages.plan import Ask
    from compiler.targets import TargetOptions

    ranks = parse_tp(tp)
    devices = None
    if ranks is None:
        devices = instance(instance_type).devices if instance_type else devices_here()
    ask = Ask(
        tp=ranks or 1,
        dtype=dtype,
        max_positions=max_positions,
        max_batch=max_batch,
        rope_scaling=parse_rope_scaling(rope_scaling) if rope_scaling else None,
        variant=variant,
        options=TargetOptions(version=trtllm_version),
        max_memory=parse_size(max_memory),
    )
    return {"ask": ask, "devices": devices}


def _print(data: Any, text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(data, indent=2, sort_keys=True) if as_json else text)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


@contextmanager
def _report() -> Iterator[Lines]:
    from compiler.report import for_stream

    report = for_stream()
    try:
        yield report
    finally:
        report.close()
