"""Cache key and outputs of one call of `trtllm-build`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from compiler.targets.trtllm.command import ENGINES, BuilderFlag
from compiler.targets.trtllm.section import BuildLimits
from compiler.targets.trtllm.version import Version


@dataclass(frozen=True)
class EnginesSpec:
    """Engines of one plan. `source`, `plan`: digests of the model and of the plan. `rank_bytes`: size of the largest
    rank file.
    """

    source: str
    plan: str
    version: Version
    flags: tuple[BuilderFlag, ...]
    limits: BuildLimits
    ranks: int
    rank_bytes: int

    @property
    def name(self) -> str:
        """Name of the spec; a plan has one."""
        return ENGINES

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the engines and of their config.json."""
        return (*engine_files(self.ranks), "config.json")

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "plan": self.plan,
            "version": list(self.version),
            "flags": [asdict(flag) for flag in self.flags],
        }


def engine_files(ranks: int) -> tuple[str, ...]:
    """Names of the engines, in the order of ranks."""
    return tuple(f"rank{rank}.engine" for rank in range(ranks))
