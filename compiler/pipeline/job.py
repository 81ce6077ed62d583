"""Values that the stages of a build hand on: the request and its target, the plan, findings, the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Manifest, Numerics
    from compiler.artifact.parts import Part
    from compiler.artifact.quantization import MixtureSection
    from compiler.numerics.verify import Logits
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.request import BuildRequest
    from compiler.pipeline.resolve import LocatedModel
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.gate import Passed
    from compiler.pipeline.steps.reference import Reference
    from compiler.targets.protocols import Target
    from compiler.targets.values import Toolchain


@dataclass(frozen=True)
class BuildResult:
    """`manifest` is None where `until` ended the build before there was an artifact. `made`: results that were not
    cached, by step. `source`: digest of the source, where the build ended with the plan.
    """

    output: Path
    plan: Plan
    manifest: Manifest | None
    made: dict[str, int]
    up_to_date: bool = False
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "output": str(self.output) if manifest else None,
            "digest": manifest.digest if manifest else None,
            "plan_digest": self.plan.digest,
            "stages": [{"stage": need.stage, "memory": need.memory, "disk": need.disk} for need in self.plan.needs],
            "source": self.manifest.model.source_digest if self.manifest else self.source,
            "numerics": manifest.numerics.model_dump(mode="json") if manifest and manifest.numerics else None,
            "quantisation": manifest.quantisation.model_dump(mode="json")
            if manifest and manifest.quantisation
            else None,
            "made": self.made,
            "up_to_date": self.up_to_date,
        }


@dataclass(frozen=True)
class Job:
    """`logits` stands in for the target's runtime; None: see numerics/verify.py."""

    request: BuildRequest
    runner: CachedRunner
    target: Target[Any]
    toolchain: Toolchain
    logits: Logits | None


@dataclass(frozen=True)
class Prepared:
    """The model with its weights, its plan, and the parts of its tokenizer. `mixture`: of schemes, once chosen."""

    model: LocatedModel
    plan: Plan
    texts: Sequence[Part]
    mixture: MixtureSection | None = None


@dataclass(frozen=True)
class Quality:
    """Findings of the steps on the artifact, as far as they ran."""

    passed: Passed | None = None
    reference: Reference | None = None
    numerics: Numerics | None = None
