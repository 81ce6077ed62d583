"""Engines that run cells, one file each. An engine starts one command for a cell; all else is in the ledger."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from compiler.errors import UsageError
from compiler.matrix.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import Cell, CellResources


@dataclass(frozen=True)
class JobState:
    """State of a job. `ended`: the ledger has its result, unless its machine went away. `reason`: of the engine."""

    state: Literal["queued", "running", "ended"]
    reason: str = ""


class Executor(Protocol):
    """An engine. `interval`: seconds between two polls. `capacity`: where the engine has no queue of its own; jobs
    beyond it are not submitted. `shares_disk`: its machines have the folder of the artifacts. `largest_array`: most
    cells of `submit_array`; 1 without array jobs.
    """

    name: str
    interval: float
    capacity: CellResources | None
    shares_disk: bool
    largest_array: int

    def submit(self, cell: Cell) -> str:
        """Start `cell.argv`, with the cell's resources. The job's id, which another process can use too.

        Raises RefusedError where no machine of the engine has the resources, LmiCompileError.
        """

    def submit_array(self, cell: Cell, size: int) -> list[str]:
        """Start `cell.argv` on `size` machines, which know their index. The ids of their jobs, in order.

        Engines with a `largest_array` of 1 have none.
        """

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """State of each job; an unknown one has ended."""

    def fetch(self, job: str) -> str:
        """The engine's own account of a job: events, reason of its end, the end of its output; "" for none."""

    def cancel(self, job: str) -> None:
        """End a job and its processes; one that has ended is no error."""


def open_executor(name: str, options: Mapping[str, Any], where: Any) -> Executor:
    """Engine `name`. `options`: [fleet.NAME] of the builds.toml. `where`: folder of the artifacts.

    Raises UsageError where its package is missing, or options are wrong.
    """
    if name not in NAMES:
        raise UsageError(f"`--on` takes {', '.join(NAMES)}; found `{name}`", hint="`--on local` needs no engine")
    found: Executor = importlib.import_module(f"compiler.matrix.executors.{name}").make(options, where)
    return found


def checked_options(name: str, options: Mapping[str, Any], known: Mapping[str, type]) -> None:
    """Check the keys and types of [fleet.NAME]. Raises UsageError."""
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"[fleet.{name}] has no key `{key}`", hint=f"there are {', '.join(known)}")
        if not isinstance(value, known[key]):
            wanted = known[key].__name__
            raise UsageError(f"[fleet.{name}] `{key}`: expected {wanted}, found {value!r}", hint=f"give it a {wanted}")
