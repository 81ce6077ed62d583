"""Driver of a fleet: submit cells to an engine, follow them, begin them again by the class of their failure.

Nothing that a killed driver knew is lost: jobs are in files (jobs.py), artifacts in the store, attempts in the ledger.
So another one resumes, and two at once are harmless: cells that another driver's machine builds are waited for.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from compiler.errors import DeployError, RefusedError, StoreError, UsageError
from compiler.matrix.failures import failure_of
from compiler.matrix.jobs import MatrixJob, read_job, remove_job, write_job
from compiler.matrix.stages import look_cell
from compiler.matrix.state import MatrixRow, log_file, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from compiler.matrix.cell import Cell
    from compiler.matrix.executors import Executor, JobState
    from compiler.matrix.ledger import Ledger
    from compiler.matrix.task import FleetLimits, Task, View

BUDGET = "budget"
"""Step of a row whose cell was not begun, for want of budget."""
_LOOK = 1.0
"""Seconds between two looks at a claim."""
_PAUSE = 0.5
"""Seconds before a cell is begun again, doubled for each attempt."""


@dataclass
class Fleet:
    """One run over `tasks`. `output`: folder of the artifacts. `starting`: cells that are submitted together."""

    tasks: list[Task]
    executor: Executor
    ledger: Ledger
    output: Path
    limits: FleetLimits
    view: View
    failing_since: float = 0.0
    detailed_at: float = 0.0
    begun: int = 0
    started: float = field(default_factory=time.time)
    over_budget: bool = False
    starting: list[tuple[Task, Cell]] = field(default_factory=list)

    def run(self) -> list[MatrixRow]:
        """Rows of the cells when all have ended, or the budget is used. Raises LmiCompileError where engine or store
        do not answer any more.
        """
        self._adopt()
        while True:
            with self._tolerance():
                self._poll()
                try:
                    self._submit()
                finally:
                    self._start()
            self.view.tick(self.tasks)
            if not any(task.job for task in self.tasks) and (self.over_budget or not self._open()):
                return [task.row if task.phase == "ended" else _unbegun(task.row) for task in self.tasks]
            time.sleep(self.executor.interval)

    def _open(self) -> list[Task]:
        return [task for task in self.tasks if task.phase != "ended"]

    @contextmanager
    def _tolerance(self) -> Iterator[None]:
        """Context in which the engine or the store may fail, but not for longer than `limits.patience`."""
        now = time.monotonic()
        try:
            yield
        except (StoreError, DeployError) as error:
            if not self.failing_since:
                self.failing_since = now
                self.view.warn(f"{error.message}; tried again")
            if time.monotonic() - self.failing_since >= self.limits.patience:
                raise
        else:
            self.failing_since = 0.0

    def _adopt(self) -> None:
        """Jobs that a killed driver left."""
        for task in self.tasks:
            job = read_job(self.output, task.cell.name)
            if job is not None and job.on == self.executor.name and job.key == task.cell.key and not job.canceled:
                task.job, task.failures, task.spent, task.phase = job, job.failures, job.spent, "queued"

    def _poll(self) -> None:
        running = [task for task in self.tasks if task.job is not None]
        states = self.executor.poll([task.job.id for task in running if task.job]) if running else {}
        detailed = self.view.detailed and time.monotonic() >= self.detailed_at
        if detailed:
            self.detailed_at = time.monotonic() + max(self.executor.interval, _LOOK)
        for task in running:
            assert task.job is not None
            state = states[task.job.id]
            if state.state == "ended":
                self._ended(task, task.job, state)
                continue
            if detailed and state.state == "running":
                holder = self.ledger.holder(task.cell.key)
                task.facts = holder.facts if holder is not None and holder.token == task.job.token else {}
            self._enter(task, state.state)

    def _ended(self, task: Task, job: MatrixJob, state: JobState) -> None:
        row = self.ledger.result(job.token)
        self._keep_log(task, job)
        if row is None:
            account = state.reason or self.executor.fetch(job.id)
            row = MatrixRow(task.cell.name, "failed", task.cell.key, None, "machine", account, 143, failure="lost")
            self.ledger.release(task.cell.key, job.token)
        known = read_job(self.output, task.cell.name)
        if row.state == "claimed":
            task.job = None
            self._enter(task, "elsewhere")
            return
        task.spent = task.seconds
        task.job = None
        if row.state == "failed" and known is not None and known.canceled and known.token == job.token:
            row = canceled(row)
        elif row.state == "failed" and self._again(task, row):
            return
        self._settle(task, replace(row, attempts=len(task.failures) + 1))

    def _again(self, task: Task, row: MatrixRow) -> bool:
        """Begin the cell again, if its failure is one that may pass."""
        if task.failures.count(row.failure) >= self.limits.retries.get(row.failure, 0):
            return False
        task.failures = (*task.failures, row.failure)
        task.not_before = time.monotonic() + _PAUSE * 2 ** (len(task.failures) - 1)
        if row.failure == "memory":
            task.cell = replace(task.cell, resources=task.cell.resources.doubled_memory())
        self.view.warn(f"{row.name}: {row.failure}: {row.error.partition(chr(10))[0]}; begun again")
        remove_job(self.output, row.name)
        self._enter(task, "waiting")
        return True

    def _settle(self, task: Task, row: MatrixRow) -> None:
        attempts = max(row.attempts, 1)
        seconds = round(task.spent, 1) if row.state != "current" else 0.0
        task.row = replace(row, attempts=attempts, seconds=seconds, instance=task.cell.resources.instance)
        if row.state != "current":
            write_record(self.output, task.row)
        remove_job(self.output, row.name)
        self._enter(task, "ended")

    def _submit(self) -> None:
        for task in self._open():
            if task.job is not None or time.monotonic() < task.not_before or not self._room(task.cell):
                continue
            if not self._follows(task):
                continue
            if self._spent():
                self.over_budget = True
                return
            known = read_job(self.output, task.cell.name)
            if known is not None and known.canceled >= self.started:
                self._settle(task, canceled(task.row))
                continue
            over = self._claim_of_the_dead(task)
            if over is not None:
                self._begin(task, over)

    def _follows(self, task: Task) -> bool:
        """Whether the cell before it has ended well. Where it has not, neither does this one."""
        before = next((one for one in self.tasks if one.cell.name == task.after), None)
        if before is None or before.phase != "ended":
            return before is None
        if before.row.state in ("built", "current"):
            return True
        error = f"`{task.after}` is {before.row.state}"
        self._settle(task, replace(task.row, state="failed", step="wait", error=error, exit_code=before.row.exit_code))
        return False

    def _claim_of_the_dead(self, task: Task) -> str | None:
        """ETag of a claim to replace, "" for none; None where the cell is not to be begun now."""
        holder = self.ledger.holder(task.cell.key)
        if holder is not None:
            stale = self.ledger.is_stale(task.cell.key, self.limits.stale)
            if not stale:
                task.not_before = time.monotonic() + _LOOK
                self._enter(task, "elsewhere")
            return holder.etag if stale else None
        if task.phase == "elsewhere":
            row = look_cell(self.ledger, task.cell, self.output)
            if row.state == "current":
                self._settle(task, row)
                return None
            self._enter(task, "waiting")
        return ""

    def _begin(self, task: Task, over: str) -> None:
        token = secrets.token_hex(8)
        cell = replace(task.cell, token=token, over=over)
        self.ledger.write_cell(cell)
        task.job = MatrixJob(cell.name, self.executor.name, "", token, cell.key, time.time(), task.failures, task.spent)
        self.starting.append((task, cell))

    def _start(self) -> None:
        """Submit the cells of `starting`: those of equal machines as one array, where the engine has arrays."""
        starting, self.starting = self.starting, []
        try:
            while starting:
                alike = [pair for pair in starting if pair[1].machine == starting[0][1].machine]
                group = alike[: self.executor.largest_array]
                self._start_group(group)
                starting = [pair for pair in starting if pair not in group]
        except BaseException:
            for task, _ in starting:
                task.job = None
            raise

    def _start_group(self, group: list[tuple[Task, Cell]]) -> None:
        first = group[0][1]
        try:
            if len(group) == 1:
                ids = [self.executor.submit(first)]
            else:
                array = self.ledger.write_array([cell.token for _, cell in group])
                name = f"{first.name}-and-{len(group) - 1}"
                ids = self.executor.submit_array(replace(first, name=name, token=array), len(group))
        except (RefusedError, UsageError) as error:
            for task, _ in group:
                task.job = None
                row = replace(task.row, state="refused", step="submit", error=error.message, exit_code=error.exit_code)
                self._settle(task, replace(row, failure=failure_of(error.exit_code)))
            return
        for (task, _), job in zip(group, ids, strict=True):
            assert task.job is not None
            task.job = replace(task.job, id=job)
            write_job(self.output, task.job)
            self.begun += 1
            self._enter(task, "queued")

    def _room(self, cell: Cell) -> bool:
        running = [task.cell.resources for task in self.tasks if task.job is not None]
        if self.limits.parallel and len(running) >= self.limits.parallel:
            return False
        room = self.executor.capacity
        if room is None or not running:
            return True
        every = [*running, cell.resources]
        cpus = room.cpus / self.limits.parallel if self.limits.parallel else room.cpus
        return (
            sum(one.cpus or cpus for one in every) <= room.cpus
            and sum(one.memory for one in every) <= room.memory
            and sum(one.disk for one in every) <= room.disk
        )

    def _spent(self) -> bool:
        """Whether a budget is used."""
        hours = sum(task.seconds for task in self.tasks) / 3600
        cells, most = self.limits.cells, self.limits.hours
        return (cells > 0 and self.begun + len(self.starting) >= cells) or (most > 0 and hours >= most)

    def _keep_log(self, task: Task, job: MatrixJob) -> None:
        """The log of another machine, in the folder of the artifacts."""
        if not self.executor.shares_disk and (data := self.ledger.log(job.token)):
            log = log_file(self.output, task.cell.name)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(data)

    def _enter(self, task: Task, phase: str) -> None:
        if task.phase != phase:
            task.phase = phase
            self.view.changed(task)


def canceled(row: MatrixRow) -> MatrixRow:
    return replace(row, state="canceled", step="cancel", error="canceled", exit_code=130, failure="")


def _unbegun(row: MatrixRow) -> MatrixRow:
    error = "the budget is used; run the command again for the rest"
    return replace(row, step=BUDGET, error=error, exit_code=5)
