"""Judge: rank files against the reference, computed as the toolchain would, before any toolchain sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import Numerics
from compiler.numerics.compare import thresholds
from compiler.numerics.gate.sides import log_probabilities
from compiler.numerics.passages import read_reference
from compiler.numerics.record import numerics
from compiler.pipeline.notes import figures_text
from compiler.pipeline.runner import Output, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from compiler.model.config import ModelConfig
    from compiler.numerics.gate.sides import Side
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.reference import Reference
    from compiler.storage.cache.stages import CacheEntry
    from compiler.targets.protocols import RankLayout

_VERSION = 3


@dataclass(frozen=True)
class JudgeInputs:
    """Cache key. `files`: digests of the rank files and those beside them."""

    version: int
    source: str
    plan: str
    files: list[str]
    reference: str
    thresholds: dict[str, float]


RankLogits = Callable[["ModelConfig | None", "Sequence[NDArray[np.int64]]"], "list[NDArray[np.float32]]"]
"""Computes rank files: the model with lowered limits, or None for the model itself, and token ids [tokens] of some rows
-> logits [tokens, vocab] of each.
"""


def rank_logits(
    layout: RankLayout[Any], plan: Plan, folder: Path, max_memory: int, side: Callable[[ModelConfig | None], Side]
) -> RankLogits:
    """By the target's judge, which notices surplus tensors, too; by `side`, the decoder, where it has none."""
    opened = layout.judge
    if opened is None:
        return lambda lowered, rows: log_probabilities(side(lowered), lowered or plan.config, rows)

    def run(lowered: ModelConfig | None, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        judge = opened(folder, plan.config, max_memory, lowered)
        return [judge.logits(row) for row in rows]

    return run


def judge(
    runner: CachedRunner,
    plan: Plan,
    source_digest: str,
    files: CacheEntry,
    logits: RankLogits,
    by: Reference,
    gate_bounds: Mapping[str, float] | None,
) -> Numerics:
    """Figures of the rank files, computed by `logits`. `gate_bounds`: of a quantized model, see numerics/compare.py.

    Raises NumericsError, ArtifactError.
    """
    bounds = thresholds(plan.dtype, gate_bounds)
    digests = sorted(file.digest for file in files.files)
    inputs = JudgeInputs(_VERSION, source_digest, plan.digest, digests, by.part.descriptor.digest, asdict(bounds))

    def run(_folder: Path) -> Output:
        assert not isinstance(by.part.content, bytes)
        expected, proof = read_reference(by.part.content), plan.proof
        found = logits(None, expected.straight.rows)
        lowered = logits(proof.lowered, expected.lowered.rows) if expected.lowered else None
        figures = numerics(expected, found, lowered, bounds, by.who, proof)
        return Output({"numerics": figures.model_dump(mode="json")})

    def note(entry: CacheEntry) -> str:
        return figures_text(Numerics(**entry.facts["numerics"]))

    return Numerics(**runner.run(Step("judge", inputs, run, note)).facts["numerics"])
