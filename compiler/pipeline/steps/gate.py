"""The numerics gate: the loss of quantization, measured behind the cache, judged, and written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import written
from compiler.artifact.quantization import FIGURES, REPORT, Calibration, Gate, GateCoverage, quantization_section
from compiler.calibration.samples import HELD_OUT, random_samples, read_samples
from compiler.decoder.weights import StoredModel
from compiler.errors import NumericsError
from compiler.numerics.compare import rounded
from compiler.numerics.gate import measure
from compiler.numerics.gate.evidence import BEYOND
from compiler.numerics.gate.extent import SEED, chosen_layers
from compiler.numerics.gate.report import as_html, as_json, as_text
from compiler.numerics.gate.simulation import SchemeSide, split_of
from compiler.numerics.gate.verdict import Verdict, judge, undecided
from compiler.pipeline.runner import Output, Step
from compiler.quantization.proof_levels import PROOFS
from compiler.quantization.schemes import FLOAT
from compiler.report import progress_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compiler.artifact.parts import Part
    from compiler.artifact.quantization import MixtureSection, Quantisation
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
    """Cache key. `scales`: as in the key of convert. `samples`: digest of the token ids; `layers`: those that are
    compared part by part, over `part_tokens` tokens.
    """

    version: int
    source: str
    plan: str
    scales: str
    samples: str
    proof: dict[str, Any]
    part_tokens: int
    layers: list[int]
    device: str


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
    count = -(-PROOFS[plan.quant.proof].most // length)
    if tokenizer is None:
        return random_samples(plan.config.vocab, count, length)
    return read_samples(None, tokenizer, vocab=plan.config.vocab, count=count, length=length, own=HELD_OUT)


def measure_loss(
    runner: CachedRunner,
    plan: Plan,
    source: Source,
    scaled: Scaled,
    side: Callable[[ModelConfig | None], Side],
    samples: Samples,
    max_memory: int,
) -> Verdict:
    """Figures of `side`, which opens the rank files, against the source; with lowered limits over the rows that
    numerics/proof.py asks for, where `side` takes the lowered model.

    The first of the `samples` are measured; as long as an interval cannot decide, as many again.
    """
    level, limits = PROOFS[plan.quant.proof], tolerance(plan.quant)
    layers = chosen_layers(plan.config, level.layers)
    opened = _Measuring(runner, plan, source, scaled, side, max_memory)
    verdict = opened.step(samples.within(0, level.tokens), level.part_tokens, layers)
    while undecided(verdict, limits) and (more := samples.within(verdict.tokens, 2 * verdict.tokens)).ids:
        verdict = verdict.with_more(opened.step(more, 0, ()))
    return verdict


@dataclass(frozen=True)
class _Measuring:
    runner: CachedRunner
    plan: Plan
    source: Source
    scaled: Scaled
    side: Callable[[ModelConfig | None], Side]
    max_memory: int

    def step(self, samples: Samples, part_tokens: int, layers: Sequence[int]) -> Verdict:
        """Verdict on `samples`, behind the cache; parts of `layers` are compared over `part_tokens` tokens."""
        proof, runner, source = self.plan.proof, self.runner, self.source

        def run(_folder: Path) -> Output:
            extent = measure.Extent(part_tokens, layers, self.max_memory, self.plan.quant.device)
            progress = progress_in(runner.report, "tokens x layers")
            verdict = self._measured(source.config, None, samples, extent, progress)
            if proof.lowered is not None and part_tokens:
                rows = samples.first(proof.lowered_rows)
                lowered = self._measured(proof.lowered, proof.lowered, rows, extent, progress)
                verdict = replace(verdict, lowered=lowered)
            return Output(verdict.to_json())

        def note(entry: CacheEntry) -> str:
            return as_text(Verdict.from_json(entry.facts)).replace("\n", "; ")

        inputs = GateInputs(
            measure.VERSION,
            source.digest,
            self.plan.digest,
            self.scaled.digest,
            samples.digest,
            proof.to_json(),
            part_tokens,
            list(layers),
            self.plan.quant.device,
        )
        return Verdict.from_json(runner.run(Step("gate", inputs, run, note)).facts)

    def _measured(
        self,
        config: ModelConfig,
        lowered: ModelConfig | None,
        samples: Samples,
        extent: measure.Extent,
        progress: Callable[[int, int], None],
    ) -> Verdict:
        model = StoredModel(config, self.source.tensors, self.source.checkpoint)
        scheme = scheme_side(self.plan, config, self.scaled)
        return measure.measure(model, self.side(lowered), samples, progress, scheme=scheme, extent=extent)


def scheme_side(plan: Plan, config: ModelConfig, scaled: Scaled) -> SchemeSide:
    """The plan's scheme itself, for the model `config`."""
    scheme, scaling = plan.quant.scheme, plan.scaling
    rounded = scaling is not None and scaling.scheme.weights != FLOAT
    at_load = scheme.weights if scheme is not None and scheme.weights != FLOAT and not rounded else ""
    return SchemeSide(
        StoredModel(config, scaled.tensors, scaled.checkpoint),
        scaling,
        plan.dtype,
        at_load,
        split_of(plan.layouts),
        plan.quant.device,
    )


def pass_gate(
    report: Report,
    plan: Plan,
    verdict: Verdict,
    scaled: Scaled,
    calibrated_on: Samples | None,
    output: Path,
    mixture: MixtureSection | None = None,
) -> Passed:
    """The statement on a quantized model. `output`: of the artifact.

    Raises NumericsError where a figure is beyond its limit and not accepted; the report is then beside `output`.
    """
    quant, limits = plan.quant, tolerance(plan.quant)
    groups = f", groups of {quant.group_size}" if quant.group_size else ""
    title = f"{plan.config.architecture}, {quant.name}{groups}, tp {plan.tp}"
    figures = json.dumps(as_json(verdict, limits, scaled.outliers), indent=2) + "\n"
    files = [
        written(REPORT, as_html(verdict, limits, scaled.outliers, title).encode()),
        written(FIGURES, figures.encode()),
    ]
    accepted = False
    _warn(report, verdict, limits, quant)
    try:
        judge(verdict, limits)
    except NumericsError as error:
        if not quant.accept:
            raise _refused(output, files, error) from None
        accepted = True
        report.warn(f"{error.message}\nit is accepted, as asked, and the manifest says so")
    found = _gate(verdict, limits, quant, accepted=accepted)
    calibration = _calibration(quant.text, calibrated_on)
    return Passed(quantization_section(quant, found, calibration, scaled.alphas, mixture), files)


def tolerance(quant: Quant) -> Tolerance:
    """The wider of the limits of scheme and cache; a limit on perplexity that was asked for replaces theirs."""
    from compiler.quantization.schemes import CACHES, CLOSE, Tolerance

    scheme, cache = quant.scheme.tolerance if quant.scheme else CLOSE, CACHES.get(quant.cache, CLOSE)
    own = Tolerance(
        **{each.name: max(getattr(scheme, each.name), getattr(cache, each.name)) for each in fields(scheme)}
    )
    increase = quant.max_perplexity_increase
    if increase is None:
        return own
    return replace(own, perplexity=max(increase, _SUMS) if increase >= 0 else increase)


_SUMS = 1e-5
"""Increase of the perplexity by float32 sums in another order: the least limit that a model as it is meets."""


def refused_report(output: Path) -> list[Path]:
    """Files of the report on a refused model: page, figures."""
    return [output.with_name(f"{output.name}.{name}") for name in (REPORT, FIGURES)]


def _refused(output: Path, report: Sequence[Part], error: NumericsError) -> NumericsError:
    """The error, once the report is beside the output, where nothing of the artifact is."""
    places = refused_report(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    for place, part in zip(places, report, strict=True):
        temporary = place.with_name(f".{place.name}.part")
        temporary.write_bytes(part.read())
        temporary.replace(place)
    return NumericsError(
        f"{error.message}\nthe report is {places[0]}, its figures {places[1]}",
        hint=f"{error.hint}; `--accept-numerics` publishes it all the same, and the manifest says so",
    )


def _warn(report: Report, verdict: Verdict, limits: Tolerance, quant: Quant) -> None:
    """Warn of less evidence than `--proof` asks for, and of limits that it cannot decide."""
    level = PROOFS[quant.proof]
    if verdict.tokens < level.tokens:
        report.warn(
            f"`--proof {quant.proof}` asks for {level.tokens:,} held-out tokens; the text has {verdict.tokens:,}, and "
            f"the manifest says so"
        )
    if undecided(verdict, limits):
        low, high = verdict.evidence.increase_interval
        report.warn(
            f"{verdict.tokens:,} tokens do not decide a limit: the increase of the perplexity is within {low:+.2%} and "
            f"{high:+.2%}; the figure itself was judged"
        )


def _gate(verdict: Verdict, limits: Tolerance, quant: Quant, *, accepted: bool) -> Gate:
    worst, found = verdict.worst, verdict.evidence
    coverage = GateCoverage(
        proof=quant.proof,
        part_tokens=verdict.part_tokens,
        layers=list(verdict.layers),
        seed=SEED,
        device=quant.device,
    )
    distances = [part.distance for part in verdict.parts if part.distance is not None]
    return Gate(
        text=verdict.text,
        tokens=verdict.tokens,
        perplexity_float=rounded(found.perplexity_float, 5),
        perplexity=rounded(found.perplexity, 5),
        perplexity_increase=rounded(found.increase),
        perplexity_increase_interval=[rounded(end) for end in found.increase_interval],
        kl=rounded(found.kl),
        kl_interval=[rounded(end) for end in found.kl_interval],
        top1_agreement=rounded(found.top1_agreement),
        cosine=rounded(min((part.cosine for part in verdict.parts), default=1.0), 5),
        worst=worst.name if worst else "",
        stream=rounded(min(worst.stream, BEYOND)) if worst else None,
        distance=rounded(min(max(distances), BEYOND)) if distances else None,
        limits={"perplexity": limits.perplexity, "kl": limits.kl, "stream": limits.stream},
        coverage=coverage,
        accepted=accepted,
        report=REPORT,
    )


def _calibration(text: Text, samples: Samples | None) -> Calibration | None:
    if samples is None:
        return None
    return Calibration(
        text=samples.name, digest=samples.text, samples=text.samples, length=text.length, tokens=samples.tokens
    )
