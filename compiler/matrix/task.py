"""Cells on their way through a fleet: state of each, limits of a run, and the receiver of changes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from compiler.matrix.failures import RETRIES
from compiler.matrix.ledger import STALE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import Cell
    from compiler.matrix.jobs import MatrixJob
    from compiler.matrix.state import MatrixRow


@dataclass(frozen=True)
class FleetLimits:
    """Limits of a run. `parallel`: jobs at the same time, 0 for the engine's room. Budgets, 0 for none: `cells` begun,
    `hours` of all machines together. `retries`: further attempts after failures of a class. `stale`: see ledger.py;
    `patience`: seconds for which store or engine may fail.
    """

    parallel: int = 0
    cells: int = 0
    hours: float = 0.0
    retries: Mapping[str, int] = field(default_factory=lambda: RETRIES)
    stale: float = STALE
    patience: float = 300.0


@dataclass
class Task:
    """A cell on its way. `phase`: waiting (for room, a pause, or the cell `after`), elsewhere (another driver builds
    it), queued, running, or ended. `facts`: running step.
    """

    cell: Cell
    row: MatrixRow
    after: str = ""
    phase: str = "waiting"
    job: MatrixJob | None = None
    failures: tuple[str, ...] = ()
    spent: float = 0.0
    not_before: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds of all attempts."""
        return self.spent + (time.time() - self.job.began if self.job else 0.0)


class View(Protocol):
    """Receiver of changes: a table on a terminal, or lines. `detailed`: whether it shows running steps."""

    detailed: bool

    def changed(self, task: Task) -> None: ...
    def tick(self, tasks: Sequence[Task]) -> None: ...
    def warn(self, text: str) -> None: ...
