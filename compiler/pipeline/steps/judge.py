"""Judge: rank files against the reference, computed as the toolchain would, before any toolchain sees them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from compiler.artifact.manifest import Numerics
from compiler.numerics import verify
from compiler.numerics.compare import thresholds
from compiler.numerics.reference import read_reference
from compiler.pipeline.notes import figures_text
from compiler.pipeline.runner import Output, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.reference import Reference
    from compiler.storage.cache.stages import CacheEntry
    from compiler.targets.values import Judge

_VERSION = 1


@dataclass(frozen=True)
class JudgeInputs:
    """Cache key. `files`: digests of the rank files and those beside them."""

    version: int
    source: str
    plan: str
    files: list[str]
    reference: str
    thresholds: dict[str, float]


def judge(
    runner: CachedRunner,
    plan: Plan,
    source_digest: str,
    files: CacheEntry,
    open_judge: Callable[[], Judge],
    by: Reference,
    gate_bounds: Mapping[str, float] | None,
) -> Numerics:
    """Figures of the rank files. `gate_bounds`: of a quantized model, see numerics/compare.py.

    Raises NumericsError, ArtifactError.
    """
    bounds = thresholds(plan.dtype, gate_bounds)
    digests = sorted(file.digest for file in files.files)
    inputs = JudgeInputs(_VERSION, source_digest, plan.digest, digests, by.part.descriptor.digest, asdict(bounds))

    def run(_folder: Path) -> Output:
        assert not isinstance(by.part.content, bytes)
        ids, expected = read_reference(by.part.content)
        figures = verify.numerics(expected, open_judge().logits(ids), bounds, by.who)
        return Output({"numerics": figures.model_dump(mode="json")})

    def note(entry: CacheEntry) -> str:
        return figures_text(Numerics(**entry.facts["numerics"]))

    return Numerics(**runner.run(Step("judge", inputs, run, note)).facts["numerics"])
