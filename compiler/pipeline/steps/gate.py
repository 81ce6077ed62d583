"""The numerics gate: the loss of quantization, measured behind the cache, judged, and written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import written
from compiler.artifact.quantization import FIGURES, REPORT, Calibration, Gate, quantization_section
from compiler.calibration.samples import HELD_OUT, random_samples, read_samples
from compiler.decoder.weights import StoredModel
from compiler.errors import NumericsError
from compiler.numerics.compare import rounded
from compiler.numerics.gate import measure
from compiler.numerics.gate.report import as_html, as_json, as_text
from compiler.numerics.gate.verdict import Verdict, judge
from compiler.pipeline.runner import Output, Step
from compiler.report import progress_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compiler.artifact.parts import Part
    from compiler.artifact.quantization import Quantisation
    from compiler.calibration.samples import Samples
    from compiler.model.config import ModelConfig
    from compiler.numerics.gate.sides import Side
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.pipeline.steps.scales import Scaled
    from compiler.quantization.request import Quant, Text
    from compiler.quantization.schemes import Tolerance
    from compiler.report import Report
    from compiler.storage.cache.stages import CacheEntry


@dataclass(frozen=True)
class GateInputs:
    """Cache key. `scales`: as in the key of convert. `samples`: digest of the token ids."""

    version: int
    source: str
    plan: str
    scales: str
    samples: str
    proof: dict[str, Any]


@dataclass(frozen=True)
class Passed:
    """The manifest's section on quantization, and the files of the report that go into the artifact."""

    quantisation: Quantisation
    report: Sequence[Part]


def held_out_samples(plan: Plan, tokenizer: Path | None) -> Samples:
    """The text that a quantized model is judged on. `tokenizer`: its folder.

    Raises CalibrationError, TokenizerError.
    """
    length = min(max(measure.LENGTH, plan.proof.rows[0]), plan.config.max_positions)
    if tokenizer is None:
        return random_samples(plan.config.vocab, measure.SAMPLES, length)
    return read_samples(None, tokenizer, vocab=plan.config.vocab, count=measure.SAMPLES, length=length, own=HELD_OUT)


def measure_loss(
    runner: CachedRunner,
    plan: Plan,
    source: Source,
    scales: str,
    side: Callable[[ModelConfig | None], Side],
    samples: Samples,
) -> Verdict:
    """Figures of `side`, which opens the rank files, against the source over `samples`; with lowered limits over the
    rows that numerics/proof.py asks for, where `side` takes the lowered model. `scales`: their digest.
    """
    proof = plan.proof

    def run(_folder: Path) -> Output:
        model = StoredModel(source.config, source.tensors, source.checkpoint)
        progress = progress_in(runner.report, "tokens x layers")
        verdict = measure.measure(model, side(None), samples, progress)
        if proof.lowered is not None:
            rows = samples.first(proof.lowered_rows)
            lowered = StoredModel(proof.lowered, source.tensors, source.checkpoint)
            verdict = replace(verdict, lowered=measure.measure(lowered, side(proof.lowered), rows, progress))
        return Output(verdict.to_json())

    def note(entry: CacheEntry) -> str:
        return as_text(Verdict.from_json(entry.facts)).replace("\n", "; ")

    inputs = GateInputs(measure.VERSION, source.digest, plan.digest, scales, samples.digest, proof.to_json())
    return Verdict.from_json(runner.run(Step("gate", inputs, run, note)).facts)


def pass_gate(
    report: Report, plan: Plan, verdict: Verdict, scaled: Scaled, calibrated_on: Samples | None, output: Path
) -> Passed:
    """The statement on a quantized model. `output`: of the artifact.

    Raises NumericsError where a figure is beyond its limit and not accepted; the report is then beside `output`.
    """
    quant, limits = plan.quant, tolerance(plan.quant)
    title = f"{plan.config.architecture}, {quant.scheme.name if quant.scheme else quant.cache}, tp {plan.tp}"
    figures = json.dumps(as_json(verdict, limits, scaled.outliers), indent=2) + "\n"
    files = [
        written(REPORT, as_html(verdict, limits, scaled.outliers, title).encode()),
        written(FIGURES, figures.encode()),
    ]
    accepted = False
    try:
        judge(verdict, limits)
    except NumericsError as error:
        if not quant.accept:
            raise _refused(output, files, error) from None
        accepted = True
        report.warn(f"{error.message}\nit is accepted, as asked, and the manifest says so")
    found = _gate(verdict, limits, accepted=accepted)
    return Passed(quantization_section(quant, found, _calibration(quant.text, calibrated_on), scaled.alphas), files)


def tolerance(quant: Quant) -> Tolerance:
    """The wider of the limits of scheme and cache; a limit on perplexity that was asked for replaces theirs."""
    from compiler.quantization.schemes import CACHES, CLOSE, Tolerance

    scheme, cache = quant.scheme.tolerance if quant.scheme else CLOSE, CACHES.get(quant.cache, CLOSE)
    own = Tolerance(
        max(scheme.perplexity, cache.perplexity), max(scheme.kl, cache.kl), min(scheme.cosine, cache.cosine)
    )
    increase = quant.max_perplexity_increase
    return own if increase is None else replace(own, perplexity=increase)


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
