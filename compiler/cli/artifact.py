"""What is done with an artifact: inspect, verify, generate."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli.options import ArtifactArgument, Json, ModelOptions, RequireSignature, grouped, model_fields
from compiler.cli.output import reporting, show
from compiler.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SamplingOptions:
    """How an answer is chosen; the fields of GenerationParams."""

    max_new_tokens: Annotated[int, typer.Option(help="At most so many.")] = 64
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0
    repetition_penalty: Annotated[float, typer.Option(help="1 is off.")] = 1.0
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="Ends the answer; may be repeated.")] = None
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end token.")] = False


def inspect(artifact: ArtifactArgument, as_json: Json = False) -> None:
    """Print what an artifact's manifest says."""
    from compiler.artifact.manifest import load_manifest
    from compiler.cli.text import manifest_text

    manifest = load_manifest(artifact)
    show(manifest.model_dump(mode="json"), manifest_text(manifest), as_json=as_json)


def verify(
    artifact: ArtifactArgument,
    model: Annotated[str | None, typer.Option(help="Its source: do not believe the stored logits.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the source.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the source.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes, CRCs and layout only; finds damage, no forgery.")
    ] = False,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Check an artifact: digests, layout, and its logits against those of the source model."""
    from compiler.artifact.sign import check_signed

    if require_signature is not None:
        check_signed(artifact, require_signature)
    if quick:
        if model is not None or require_signature is not None:
            raise UsageError(
                "`--quick` believes the files: it goes neither with `--model` nor with `--require-signature`",
                hint="leave `--quick` away: the full check takes sha256 digests and computes logits",
            )
        _verify_quick(artifact, as_json=as_json)
        return
    from compiler.build.notes import numerics_text
    from compiler.build.request import Ask, PlanRequest
    from compiler.build.verify_source import source_logits
    from compiler.numerics.verify import verify as run
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
    prompts: Annotated[list[str], typer.Argument(help="One or more; `-` reads one a line from stdin.")],
    sampling: SamplingOptions,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="The log probability of every token.")] = False,
    stream: Annotated[bool, typer.Option(help="Print the text as it comes (one prompt).")] = True,
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
        "sizes, CRCs and layout are right; its digests and logits were not computed",
        as_json=as_json,
    )
