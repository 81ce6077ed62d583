"""How far a build gets on this machine: the last stage that runs, decided before the first one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compiler.errors import ToolchainMissing

if TYPE_CHECKING:
    from compiler.report import Report
    from compiler.targets.values import Toolchain


@dataclass(frozen=True)
class Reach:
    """`last`: the last stage that this build runs. `versions`: of the toolchain. `missing`: why no later stage runs."""

    last: str
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: ToolchainMissing | None = None

    def check(self, left: str) -> None:
        """Raises ToolchainMissing where the build has to end after `last`. `left`: where its results are."""
        if self.missing is not None:
            raise ToolchainMissing(f"{self.missing.message}. {left}", hint=self.missing.hint)


def reach_of(toolchain: Toolchain, stages: Sequence[str], until: str, device: str, report: Report) -> Reach:
    """The reach of a build that is to end with the stage `until`; without the toolchain it ends before compile."""
    before = stages[: stages.index("compile")]
    try:
        return Reach(until, toolchain.versions(device))
    except ToolchainMissing as error:
        if until in before:
            return Reach(until)
        report.warn(f"{error.message}; this build will end after {before[-1]}")
        return Reach(before[-1], missing=error)
