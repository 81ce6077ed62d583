"""Verify: logits of a finished artifact against its reference, behind the cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from compiler.artifact.manifest import Numerics
from compiler.numerics import verify
from compiler.pipeline.runner import Output, Step

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.numerics.verify import Logits
    from compiler.pipeline.runner import CachedRunner
    from compiler.storage.cache.stages import StageCache


@dataclass(frozen=True)
class VerifyInputs:
    """Cache key. `manifest`: digest of its substance."""

    version: int
    manifest: str
    thresholds: dict[str, float]


def measured_before(cache: StageCache, draft: Manifest) -> Numerics | None:
    """The figures of the artifact of this manifest, where they are in the cache."""
    found = cache.find("verify", _inputs(draft))
    return Numerics(**found.facts["numerics"]) if found else None


def measure(runner: CachedRunner, draft: Manifest, folder: Path, who: str, logits: Logits) -> Numerics:
    """The figures of the artifact in `folder` against the reference that `who` computed. Raises NumericsError."""

    def run(_folder: Path) -> Output:
        return Output({"numerics": verify.measure(draft, folder, who, logits).model_dump(mode="json")})

    return Numerics(**runner.entry(Step("verify", _inputs(draft), run)).facts["numerics"])


def _inputs(draft: Manifest) -> VerifyInputs:
    return VerifyInputs(verify.VERSION, draft.substance.digest, asdict(verify.bounds_of(draft)))
