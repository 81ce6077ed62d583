"""Mixtures of schemes behind the cache: costs of parts, then of whole mixtures. The limit is part of neither key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.calibration import feedback, scales
from compiler.calibration.samples import HELD_OUT, random_samples, read_samples
from compiler.decoder.weights import StoredModel
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.numerics.gate.evidence import Evidence
from compiler.numerics.mixture import costs, trade
from compiler.numerics.mixture.choice import NONE, Mixture, Point, mixture, part_bytes, part_name, rungs, steps
from compiler.numerics.mixture.roundings import Roundings
from compiler.pipeline.runner import Output, Step
from compiler.pipeline.steps.feedback import compensate
from compiler.quantization.proof_levels import PROOFS
from compiler.quantization.schemes import PARTS, UNQUANTIZED
from compiler.report import progress_in
from compiler.storage.files.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.calibration.samples import Samples
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.digest import Source
    from compiler.quantization.schemes import Scheme
    from compiler.storage.cache.stages import CacheEntry

VERSION = 1
"""Version of these steps, part of their cache keys: raised when the same inputs give other figures."""


@dataclass(frozen=True)
class MixtureInputs:
    """Cache key. `rounded`: digests of the weights that are rounded with feedback. `mixtures`: empty for the costs of
    parts. `samples`: digest of the token ids.
    """

    version: int
    source: str
    config: dict[str, Any]
    schemes: list[dict[str, Any]]
    rounded: list[str]
    mixtures: list[list[list[str]]]
    samples: str
    device: str


@dataclass(frozen=True)
class Rung:
    """A mixture, and its cost on the held-out text."""

    mixture: Mixture
    evidence: Evidence

    def parts(self, schemes: Sequence[Scheme]) -> tuple[tuple[Scheme, Scheme], ...]:
        """Schemes of attention and of the mlp of every layer."""
        named = {NONE: UNQUANTIZED, **{scheme.name: scheme for scheme in schemes}}
        return tuple((named[attn], named[mlp]) for attn, mlp in self.mixture)


@dataclass(frozen=True)
class MeasuredMixtures:
    """`costs`: of every part of a layer in every scheme, in nats, over `tokens` tokens. `rungs`: mixtures, from the
    unquantized model to the fewest bytes, over `rung_tokens` tokens. `text`: digest of the text.
    """

    costs: Mapping[str, Mapping[str, float]]
    rungs: tuple[Rung, ...]
    tokens: int
    rung_tokens: int
    text: str


def mixture_rows(plan: Plan, tokenizer: Path | None, wanted: int) -> Samples:
    """Rows of equal length for `wanted` tokens, from the held-out text behind all that the gate reads. `tokenizer`: its
    folder. Raises CalibrationError, TokenizerError.
    """
    length = min(costs.LENGTH, plan.config.max_positions)
    count = -(-wanted // length)
    if tokenizer is None:
        return random_samples(plan.config.vocab, count, length)
    behind = -(-max(level.most for level in PROOFS.values()) // length)
    found = read_samples(None, tokenizer, vocab=plan.config.vocab, count=behind + count, length=length, own=HELD_OUT)
    own = found.within(behind * length, (behind + count) * length)
    # Without Python's documentation the text is short: then the gate reads the same.
    return _whole(own if own.ids else found, length)


def measured(
    runner: CachedRunner,
    source: Source,
    plan: Plan,
    schemes: Sequence[Scheme],
    calibration: Samples | None,
    tokenizer: Path | None,
    max_memory: int,
) -> MeasuredMixtures:
    """Costs of the parts and of the mixtures. `calibration`: for schemes with feedback.

    Raises the errors of `feedback.compensate` and of `costs.rows_that_fit`.
    """
    rounded = None
    fed_back = next((scheme for scheme in schemes if scheme.rounds_with_feedback), None)
    if fed_back is not None:
        assert calibration is not None
        rounded = compensate(runner, source, fed_back, calibration, plan.quant.device, max_memory)
    roundings = _roundings(source, schemes, rounded, plan.quant.device)
    fit = costs.rows_that_fit(roundings, max_memory)
    text = mixture_rows(plan, tokenizer, fit + trade.TOKENS)
    ids = np.stack(text.ids)
    few = max(min(fit, len(ids) * ids.shape[1] // 2) // ids.shape[1], 1)
    run = _Runs(runner, source, schemes, roundings, [file.digest for file in rounded.files] if rounded else [])
    by_part = run.costs(ids[:few])
    mixtures = _mixtures(plan, schemes, by_part)
    own = ids[few:] if len(ids) > few else ids
    found = run.trade(mixtures, own)
    evidence = [Evidence.from_json(blocks) for blocks in found]
    return MeasuredMixtures(by_part, tuple(map(Rung, mixtures, evidence)), ids[:few].size, own.size, text.text)


@dataclass(frozen=True)
class _Runs:
    runner: CachedRunner
    source: Source
    schemes: Sequence[Scheme]
    roundings: Roundings
    rounded: list[str]

    def costs(self, ids: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        def run(_folder: Path) -> Output:
            return Output(
                {"costs": costs.costs(self.roundings, ids, progress_in(self.runner.report, "tokens x layers"))}
            )

        def note(entry: CacheEntry) -> str:
            found = {name: max(own, key=lambda part: own[part]) for name, own in _by_scheme(entry).items()}
            worst = ", ".join(f"{name}: {part} costs most" for name, part in found.items())
            return f"each part of a layer alone, over {ids.size} tokens; {worst}"

        entry = self.runner.run(Step("costs", self._inputs([], ids), run, note))
        return {part: dict(own) for part, own in entry.facts["costs"].items()}

    def trade(self, mixtures: Sequence[Mixture], ids: NDArray[np.int64]) -> list[Any]:
        def run(_folder: Path) -> Output:
            progress = progress_in(self.runner.report, "tokens x layers")
            found = trade.trade(self.roundings, mixtures, ids, progress)
            return Output({"evidence": [evidence.to_json() for evidence in found]})

        def note(_entry: CacheEntry) -> str:
            return f"{len(mixtures)} mixtures over {ids.size} tokens"

        named = [[list(layer) for layer in one] for one in mixtures]
        return list(self.runner.run(Step("trade", self._inputs(named, ids), run, note)).facts["evidence"])

    def _inputs(self, mixtures: list[list[list[str]]], ids: NDArray[np.int64]) -> MixtureInputs:
        own = [{n: v for n, v in asdict(one).items() if n not in ("tolerance", "parts")} for one in self.schemes]
        digest = digest_bytes(repr(ids.shape).encode() + ids.tobytes())
        config = self.source.config.to_json()
        return MixtureInputs(
            VERSION, self.source.digest, config, own, self.rounded, mixtures, digest, self.roundings.device
        )


def _roundings(source: Source, schemes: Sequence[Scheme], rounded: CacheEntry | None, device: str) -> Roundings:
    model, fed_back = StoredModel(source.config, source.tensors, source.checkpoint), None
    if rounded is not None:
        merged = scales.with_scales(source.tensors, source.checkpoint, rounded.folder / feedback.WEIGHTS)
        fed_back = StoredModel(source.config, *merged)
    return Roundings(model, fed_back, schemes, device)


def _mixtures(plan: Plan, schemes: Sequence[Scheme], by_part: Mapping[str, Mapping[str, float]]) -> list[Mixture]:
    config, itemsize = plan.config, ITEMSIZE[DTYPES[plan.dtype]]
    points = {}
    for layer in range(config.layers):
        for part in PARTS:
            name = part_name(layer, part)
            own = [Point(NONE, part_bytes(config, layer, part, None, itemsize), 0.0)]
            points[name] = own + [
                Point(scheme.name, part_bytes(config, layer, part, scheme, 0), by_part[name][scheme.name])
                for scheme in schemes
            ]
    return [mixture(taken, config.layers) for taken in rungs(steps(points, config.layers))]


def _by_scheme(entry: CacheEntry) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for part, own in entry.facts["costs"].items():
        for scheme, cost in own.items():
            found.setdefault(scheme, {})[part] = cost
    return found


def _whole(samples: Samples, length: int) -> Samples:
    """Samples of equal length: `length`, or that of the longest."""
    most = min(length, max(one.size for one in samples.ids))
    kept = tuple(one[:most] for one in samples.ids if one.size >= most)
    return replace(samples, ids=kept)
