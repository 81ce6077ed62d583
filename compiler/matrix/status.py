"""State of a fleet while it runs, from its files, its engine and its ledger: rows, logs, and the end of jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compiler.errors import NotFoundError, StoreError
from compiler.matrix.driver import canceled
from compiler.matrix.executors import open_executor
from compiler.matrix.jobs import MatrixJob, read_job, write_job
from compiler.matrix.ledger import Ledger, ledger_uri
from compiler.matrix.stages import cell_names
from compiler.matrix.state import MatrixRow, log_file, read_record, write_record
from compiler.matrix.view import step_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.matrix.executors import Executor, JobState
    from compiler.matrix.file import BuildEntry


@dataclass(frozen=True)
class CellStatus:
    """A build: row of its last end, and the job that builds it now. `phase`: of the job; `facts`: its running step."""

    row: MatrixRow
    job: MatrixJob | None = None
    phase: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return round(self.job.spent + time.time() - self.job.began, 1) if self.job else 0.0

    def to_json(self) -> dict[str, Any]:
        if self.job is None:
            return self.row.to_json()
        job = {"on": self.job.on, "id": self.job.id, "phase": self.phase, "attempt": len(self.job.failures) + 1}
        return {**self.row.to_json(), "job": {**job, "seconds": self.seconds, "step": self.facts}}


@dataclass(frozen=True)
class Jobs:
    """Jobs of the cells in a folder of artifacts. `options`: of the engines."""

    output: Path
    store: str | None
    options: Mapping[str, Mapping[str, Any]]

    def status(self, entries: Sequence[BuildEntry]) -> list[CellStatus]:
        """Raises UsageError, DeployError where an engine cannot be asked."""
        rows = {name: read_record(self.output, name) or MatrixRow(name, "new") for name in cell_names(entries)}
        jobs = {name: job for name in rows if (job := read_job(self.output, name)) is not None and not job.canceled}
        states: dict[str, JobState] = {}
        for on in dict.fromkeys(job.on for job in jobs.values()):
            states.update(self._executor(on).poll([job.id for job in jobs.values() if job.on == on]))
        found = []
        for name, row in rows.items():
            job = jobs.get(name)
            phase = states[job.id].state if job else ""
            found.append(CellStatus(row, job, phase, self._step(job) if job and phase == "running" else {}))
        return found

    def log(self, name: str) -> str:
        """Log of the last or of the running attempt. Raises NotFoundError where there is none."""
        job, data = read_job(self.output, name), b""
        if job is not None and not self._executor(job.on).shares_disk:
            data = self._ledger().log(job.token) or self._executor(job.on).fetch(job.id).encode()
        if not data and log_file(self.output, name).is_file():
            data = log_file(self.output, name).read_bytes()
        if not data:
            raise NotFoundError(f"`{name}` has no log", hint="its build has not begun: `lmi-compile matrix status`")
        return data.decode(errors="replace")

    def cancel(self, entries: Sequence[BuildEntry]) -> list[str]:
        """End the jobs of the entries, and keep a running driver from beginning others. Names of the jobs ended."""
        now = time.time()
        jobs = {name: read_job(self.output, name) for name in cell_names(entries)}
        # All are marked before any is ended: room that one leaves is not for another of them.
        for name, job in jobs.items():
            marked = replace(job, canceled=now) if job else MatrixJob(name, "", "", "", "", now, canceled=now)
            write_job(self.output, marked)
        running = [job for job in jobs.values() if job is not None and job.id and not job.canceled]
        for job in running:
            self._executor(job.on).cancel(job.id)
            self._ledger().release(job.key, job.token)
            write_record(self.output, canceled(MatrixRow(job.name, "new", job.key)))
        return [job.name for job in running]

    def _step(self, job: MatrixJob) -> dict[str, Any]:
        try:
            holder = self._ledger().holder(job.key)
        except StoreError:
            return {}
        return holder.facts if holder is not None and holder.token == job.token else {}

    def _ledger(self) -> Ledger:
        return Ledger(ledger_uri(self.output, self.store))

    def _executor(self, on: str) -> Executor:
        return open_executor(on, self.options.get(on, {}), self.output)


def status_cells(found: CellStatus) -> tuple[str, str]:
    """State and note of a build with a job, for the table."""
    job = found.job
    assert job is not None
    step, rate, left = step_text(found.facts)
    attempt = f", attempt {len(job.failures) + 1}" if job.failures else ""
    note = ", ".join(filter(None, (step, rate, f"{left} left" if left else "")))
    return found.phase, f"{job.on} {job.id}{attempt}" + (f": {note}" if note else "")
