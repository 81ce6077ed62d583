"""Engine `local`: processes on this machine, as many as its memory and cores have room for.

A process has a session of its own, so that it goes on where the driver is killed; its id is that of the process with
its start time, which no later process has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.machine import available_memory, free_disk
from compiler.matrix.cell import CellResources
from compiler.matrix.executors import JobState
from compiler.matrix.state import log_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import Cell

_MEMORY_SHARE = 0.9
_PATIENCE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


class Local:
    """Processes; see Executor."""

    name = "local"
    interval = 0.2
    shares_disk = True
    largest_array = 1

    def __init__(self, output: Path) -> None:
        self._output = output
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        cores, memory = len(os.sched_getaffinity(0)), int(available_memory() * _MEMORY_SHARE)
        self.capacity: CellResources | None = CellResources(float(cores), memory, free_disk(output))

    def submit(self, cell: Cell) -> str:
        log = log_file(self._output, cell.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as errors:
            child = subprocess.Popen(
                cell.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        job = f"{child.pid}-{_started(child.pid)}"
        self._children[job] = child
        return job

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        return {job: self._state(job) for job in ids}

    def fetch(self, job: str) -> str:
        code = self._children[job].poll() if job in self._children else None
        return f"the process ended with {code}" if code is not None else ""

    def cancel(self, job: str) -> None:
        if self._state(job).state == "ended":
            return
        pid, until = _pid(job), time.monotonic() + _PATIENCE
        _end(pid, signal.SIGTERM)
        while self._state(job).state == "running" and time.monotonic() < until:
            time.sleep(0.05)
        _end(pid, signal.SIGKILL)

    def _state(self, job: str) -> JobState:
        child, pid = self._children.get(job), _pid(job)
        if child is not None:
            code = child.poll()
            alive, reason = code is None, f"the process ended with {code}"
        else:
            started = _started(pid)
            alive, reason = started != "" and job == f"{pid}-{started}", "the process went away"
            if started not in ("", job.partition("-")[2]):
                return JobState("ended", reason)  # another process has the number now
        if not alive:
            _end(pid, signal.SIGKILL)  # children that a killed worker left
        return JobState("running") if alive else JobState("ended", reason)


def make(options: Mapping[str, Any], output: Path) -> Local:
    """Raises UsageError for any option: this engine has none."""
    if options:
        raise UsageError(f"[fleet.local] has no key {', '.join(options)}", hint="leave the table out")
    return Local(output)


def _pid(job: str) -> int:
    return int(job.partition("-")[0])


def _started(pid: int) -> str:
    """Start time of a process, in the kernel's clock ticks; "" where there is none, or only its exit code is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _end(group: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, what)
