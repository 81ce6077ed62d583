"""Commands on one artifact: inspect, verify, generate."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli.groups import grouped
from compiler.cli.options import ArtifactArgument, Json, ModelOptions, RequireSignature, model_fields
from compiler.cli.output import reporting, show
from compiler.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling of an answer; the fields of GenerationParams."""

    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of the answer.")] = 64
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.0
    top_k: Annotated[int, typer.Option(help="Sample from the K likeliest tokens; 0 is off.")] = 0
    top_p: Annotated[float, typer.Option(help="Sample from this probability mass; 1 is off.")] = 1.0
    repetition_penalty: Annotated[float, typer.Option(help="Penalty of repeated tokens; 1 is off.")] = 1.0
    seed: Annotated[int | None, typer.Option(help="Random seed; the same seed gives the same answer.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")] = None
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Continue after an end token.")] = False


def inspect(artifact: ArtifactArgument, as_json: Json = False) -> None:
    """Print an artifact's manifest."""
    from compiler.artifact.manifest import load_manifest
    from compiler.cli.text import manifest_text

    manifest = load_manifest(artifact)
    show(manifest.model_dump(mode="json"), manifest_text(manifest), as_json=as_json)


def verify(
    artifact: ArtifactArgument,
    model: Annotated[str | None, typer.Option(help="Source model; recompute the logits from it.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the source model.")] = None,
    variant: Annotated[str | None, typer.Option(help="File variant of the source model.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes, CRCs and layout only: detects damage, not forgery.")
    ] = False,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Check digests, layout, and logits against the source model's."""
    from compiler.artifact.sign import check_signed

    if require_signature is not None:
        check_signed(artifact, require_signature)
    if quick:
        if model is not None or require_signature is not None:
            raise UsageError(
                "`--quick` trusts the files: it excludes `--model` and `--require-signature`",
                hint="omit `--quick`: the full check computes sha256 digests and logits",
            )
        _verify_quick(artifact, as_json=as_json)
        return
    from compiler.numerics.verify import verify as run
    from compiler.pipeline.notes import numerics_text
    from compiler.pipeline.request import Ask, PlanRequest
    from compiler.pipeline.verify_source import source_logits
    from compiler.report import progress_in

    expected = None
    if model is not None:
        source = ModelOptions(model, revision, variant=variant)
        expected = source_logits(artifact, PlanRequest(**model_fields(source), ask=Ask(variant=variant)))
    with reporting(as_json=as_json) as report:
        report.begin("verify")
        manifest = run(artifact, expected=expected, progress=progress_in(report, "bytes"))
        report.end(f"{len(manifest.files)} files")
    numerics = manifest.numerics.model_dump(mode="json") if manifest.numerics else None
    show({"name": manifest.name, "numerics": numerics}, numerics_text(manifest), as_json=as_json)


@grouped
def generate(
    artifact: ArtifactArgument,
    prompts: Annotated[list[str], typer.Argument(help="Prompts; `-` reads one per line from stdin.")],
    sampling: SamplingOptions,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Print the log probability of every token.")] = False,
    stream: Annotated[bool, typer.Option(help="Print the text as it is generated (one prompt).")] = True,
    as_json: Json = False,
) -> None:
    """Answer prompts with an artifact."""
    from dataclasses import asdict

    from compiler.cli.answer import answer
    from compiler.runtime.params import GenerationParams

    params = GenerationParams(**{**asdict(sampling), "stop": tuple(sampling.stop or ())})
    answer(artifact, prompts, params, sys.stdout, stream=stream, log_probs=logprobs, as_json=as_json)


def _verify_quick(artifact: Path, *, as_json: bool) -> None:
    from compiler.numerics.intact import intact
    from compiler.report import amount, progress_in

    with reporting(as_json=as_json) as report:
        report.begin("verify")
        manifest = intact(artifact, by="crc", progress=progress_in(report, "bytes"))
        report.end(f"{len(manifest.files)} files, {amount(sum(file.size for file in manifest.files), 'bytes')}")
    show(
        {"name": manifest.name, "numerics": None},
        "sizes, CRCs and layout are right; digests and logits were not computed",
        as_json=as_json,
    )
