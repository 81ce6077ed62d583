"""The numerics gate of a build: what quantisation has cost, measured behind the cache, judged, and written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.parts import written
from compiler.artifact.quantization import FIGURES, REPORT, Calibration, Gate
from compiler.errors import NumericsError
from compiler.calibration.samples import HELD_OUT, random_samples, read_samples
from compiler.numerics.gate import measure as gate
from compiler.numerics.gate.report import as_html, as_json, as_text
from compiler.numerics.gate.sides import Judged, of_files
from compiler.numerics.gate.verdict import Verdict, judge
from compiler.numerics.compare import rounded
from compiler.artifact.quantization import quantisation
from compiler.decoder.weights import StoredModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.artifact.parts import Part
    from compiler.artifact.quantization import Quantisation
    from compiler.build.cached import Converted, Job
    from compiler.build.requests import Prepared
    from compiler.build.scaled import Scaled
    from compiler.quantization.request import Quant, Text
    from compiler.quantization.schemes import Tolerance
    from compiler.calibration.samples import Samples
    from compiler.numerics.gate.sides import Side
    from compiler.build.plan import Plan


@dataclass(frozen=True)
class GateInputs:
    """`scales`: as convert's key has them. `samples`: digest of the token ids."""

    version: int
    source: str
    plan: str
    scales: str
    samples: str


@dataclass(frozen=True)
class Gated:
    """What the manifest says, and the files of the report that go into the artifact."""

    quantisation: Quantisation
    report: Sequence[Part]


def held_out(plan: Plan, tokenizer: Path | None) -> Samples:
    """What quantised models are judged by. Raises CalibrationError, TokenizerError."""
    length = min(gate.LENGTH, plan.config.max_positions)
    if tokenizer is None:
        return random_samples(plan.config.vocab, gate.SAMPLES, length)
    return read_samples(None, tokenizer, vocab=plan.config.vocab, count=gate.SAMPLES, length=length, own=HELD_OUT)


def gated(
    job: Job,
    prepared: Prepared,
    source: str,
    scaled: Scaled,
    files: Converted,
    samples: Samples,
    calibrated_on: Samples | None,
) -> Gated:
    """The verdict on the rank files in `files`, measured with `samples`.

    Raises NumericsError where something is beyond its limit and is not accepted; the report is then beside the output.
    """
    plan, quant = prepared.plan, prepared.plan.quant
    verdict = _measured(job, prepared, source, scaled.digest, files, samples)
    limits = tolerance(quant)
    title = f"{plan.config.architecture}, {quant.scheme.name if quant.scheme else quant.cache}, tp {plan.tp}"
    figures = json.dumps(as_json(verdict, limits, scaled.outliers), indent=2) + "\n"
    report = [
        written(REPORT, as_html(verdict, limits, scaled.outliers, title).encode()),
        written(FIGURES, figures.encode()),
    ]
    accepted = False
    try:
        judge(verdict, limits)
    except NumericsError as error:
        if not quant.accept:
            raise _refused(job.request.output, report, error) from None
        accepted = True
        job.report.warn(f"{error.message}\nit is accepted, as asked, and the manifest says so")
    found = _gate(verdict, limits, accepted=accepted)
    return Gated(quantisation(quant, found, _calibration(quant.text, calibrated_on), scaled.alphas), report)


def tolerance(quant: Quant) -> Tolerance:
    """Of the scheme and of the cache, whichever may cost more, but for what was asked."""
    from compiler.quantization.schemes import CACHES, CLOSE, Tolerance

    scheme, cache = quant.scheme.tolerance if quant.scheme else CLOSE, CACHES.get(quant.cache, CLOSE)
    own = Tolerance(
        max(scheme.perplexity, cache.perplexity), max(scheme.kl, cache.kl), min(scheme.cosine, cache.cosine)
    )
    increase = quant.max_perplexity_increase
    return own if increase is None else replace(own, perplexity=increase)


def _measured(job: Job, prepared: Prepared, source: str, scales: str, files: Converted, samples: Samples) -> Verdict:
    plan = prepared.plan
    job.report.begin("gate")
    inputs = GateInputs(gate.VERSION, source, plan.digest, scales, samples.digest)
    with job.cache.claim("gate", inputs) as claim:
        entry = claim.entry
        if entry is None:
            job.made["gate"] = 1
            model = StoredModel(plan.config, plan.account.tensors, prepared.checkpoint)

            def progress(done: int, total: int) -> None:
                job.report.progress(done, total, "tokens x layers")

            verdict = gate.measure(model, _side(job, plan, files), samples, progress)
            entry = claim.commit(verdict.to_json())
    verdict = Verdict.from_json(entry.facts)  # as the cache tells it, fresh or not
    job.report.end(as_text(verdict).replace("\n", "; ") if entry.fresh else "cached")
    return verdict


def _side(job: Job, plan: Plan, files: Converted) -> Side:
    """The rank files, by the target's judge where it has one."""
    layout = job.target.layout
    assert layout is not None  # what a target without rank files takes is quantized already
    if layout.judge is not None:
        return Judged(layout.judge(files.folder, plan.config, job.request.ask.max_memory))
    assert layout.kernels is not None  # rank files have kernels or a judge
    return of_files(plan.config, [files.folder / rank.file for rank in plan.ranks], layout.kernels(plan.options))


def _refused(output: Path, report: Sequence[Part], error: NumericsError) -> NumericsError:
    """The error, once the report is beside the output, where nothing of the artifact is."""
    places = [output.with_name(f"{output.name}.{part.path}") for part in report]
    output.parent.mkdir(parents=True, exist_ok=True)
    for place, part in zip(places, report, strict=True):
        temporary = place.with_name(f".{place.name}.part")
        temporary.write_bytes(part.read())
        temporary.replace(place)
    return NumericsError(
        f"{error.message}\nthe report is {places[0]}, its figures {places[1]}",
        hint=f"{error.hint}; `--accept-numerics` publishes it all the same, and the manifest says so",
    )


def _gate(verdict: Verdict, limits: Tolerance, *, accepted: bool) -> Gate:
    worst = verdict.worst
    return Gate(
        text=verdict.text,
        tokens=verdict.tokens,
        perplexity_float=rounded(verdict.perplexity_float, 5),
        perplexity=rounded(verdict.perplexity, 5),
        perplexity_increase=rounded(verdict.increase),
        kl=rounded(verdict.kl),
        top1_agreement=rounded(verdict.top1_agreement),
        cosine=rounded(worst.cosine, 5) if worst else 1.0,
        worst=worst.name if worst else "",
        limits={"perplexity": limits.perplexity, "kl": limits.kl, "cosine": limits.cosine},
        accepted=accepted,
        report=REPORT,
    )


def _calibration(text: Text, samples: Samples | None) -> Calibration | None:
    if samples is None:
        return None
    return Calibration(
        text=samples.name, digest=samples.text, samples=text.samples, length=text.length, tokens=samples.tokens
    )
