"""Plan and build the entries of a matrix. Plans run here, each in a process; builds are cells of an engine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from compiler.errors import UsageError
from compiler.matrix.cell import Cell, resources_of
from compiler.matrix.command import PROGRAM, run
from compiler.matrix.driver import Fleet
from compiler.matrix.executors import open_executor
from compiler.matrix.ledger import Ledger, ledger_uri
from compiler.matrix.stages import cell_name, cell_names, look_cell, stage_cell, stages_of
from compiler.matrix.state import MatrixRow, key_of, log_file, look
from compiler.matrix.task import FleetLimits, Task
from compiler.matrix.view import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from compiler.matrix.file import BuildEntry
    from compiler.matrix.task import View
    from compiler.report import Report

T = TypeVar("T")


@dataclass(frozen=True)
class Destination:
    """Destination of a matrix. `output`: folder of the artifacts. `store`: URI to publish to; `key`: PEM file to sign
    with. `program`: lmi-compile as words of a command line.
    """

    output: Path
    store: str | None = None
    key: str | None = None
    program: tuple[str, ...] = PROGRAM


@dataclass(frozen=True)
class EngineChoice:
    """Engine that builds the cells, and its limits. `options`: [fleet.NAME] of the builds.toml, by engine.
    `timeout`: seconds of an attempt, 0 for none.
    """

    on: str = "local"
    limits: FleetLimits = field(default_factory=FleetLimits)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timeout: float = 0.0


@dataclass(frozen=True)
class PlannedBuild:
    """A planned entry: its row, and what the plan printed; empty where it is refused."""

    entry: BuildEntry
    row: MatrixRow
    facts: Mapping[str, Any]


def plan(
    entries: Sequence[BuildEntry], place: Destination, version: str, report: Report, jobs: int = 1
) -> list[MatrixRow]:
    """Rows of the entries before a build, in their order. `version`: lmi-compile's. Raises StoreError."""
    return [found.row for found in _plans(entries, place, version, report, jobs)]


def build(
    entries: Sequence[BuildEntry],
    place: Destination,
    version: str,
    report: Report,
    engine: EngineChoice | None = None,
    *,
    jobs: int = 1,
    view: View | None = None,
) -> list[MatrixRow]:
    """Build, scan, sign and push the entries that are not current. `jobs`: plans at a time. A row for each entry.

    Raises UsageError, StoreError.
    """
    engine = engine or EngineChoice()
    executor = open_executor(engine.on, engine.options.get(engine.on, {}), place.output)
    if not executor.shares_disk and place.store is None:
        raise UsageError(f"`--on {engine.on}` builds on other machines", hint="pass `--store`: they meet in it")
    planned = _plans(entries, place, version, report, jobs)
    report.begin("build")
    ledger = Ledger(ledger_uri(place.output, place.store))
    tasks = [
        task
        for found in planned
        if found.row.key is not None
        for task in _tasks(found, place, version, ledger, engine.timeout, shared=executor.shares_disk)
    ]
    todo = [task for task in tasks if task.row.todo]
    done = Fleet(todo, executor, ledger, place.output, engine.limits, view or Quiet()).run()
    by_name = {row.name: row for row in [*(found.row for found in planned), *(task.row for task in tasks), *done]}
    rows = [by_name[name] for name in cell_names(entries) if name in by_name]
    report.end(counts(rows))
    return rows


def counts(rows: Sequence[MatrixRow]) -> str:
    """Number of rows in each state: `2 built, 1 failed, 5 current`."""
    states = [row.state for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "nothing to do"


def _plans(
    entries: Sequence[BuildEntry], place: Destination, version: str, report: Report, jobs: int
) -> list[PlannedBuild]:
    report.begin("plan")
    planned = _each([partial(_planned, entry, place, version) for entry in entries], report, jobs)
    report.end(counts([found.row for found in planned]))
    return planned


def _each(work: Sequence[Callable[[], T]], report: Report, jobs: int) -> list[T]:
    """Results in the order of `work`. An exception cancels the work that has not begun."""
    with ThreadPoolExecutor(max(jobs, 1), "matrix") as pool:
        futures = [pool.submit(one) for one in work]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                report.progress(done, len(futures), "builds")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _planned(entry: BuildEntry, place: Destination, version: str) -> PlannedBuild:
    words, log = ["build", *entry.words, "--until", "plan", "--json"], log_file(place.output, entry.name)
    ended = run(words, log, "w", program=place.program)
    if ended.code != 0:
        row = MatrixRow(entry.name, "refused", step="plan", error=ended.error, exit_code=ended.code)
        return PlannedBuild(entry, row, {})
    facts = json.loads(ended.out)
    key = key_of(entry, facts["plan_digest"], facts["source"], version)
    return PlannedBuild(entry, look(entry, key, place.output, place.store), facts)


def _tasks(
    found: PlannedBuild, place: Destination, version: str, ledger: Ledger, timeout: float, *, shared: bool
) -> list[Task]:
    """Tasks of the stages of a build. A build that is current is not converted again."""
    cell, fleet, tasks = _cell(found, place, version, ledger.uri, timeout, shared=shared), dict(found.entry.fleet), []
    before = ""
    for stage in stages_of(found.entry):
        if stage == "convert" and not found.row.todo:
            continue
        one = stage_cell(cell, stage, fleet, found.facts.get("stages", []), shared=shared)
        row = found.row if stage == "build" else look_cell(ledger, one, place.output)
        tasks.append(Task(one, row, before))
        before = cell_name(cell.name, stage)
    return tasks


def _cell(found: PlannedBuild, place: Destination, version: str, ledger: str, timeout: float, *, shared: bool) -> Cell:
    entry, fleet = found.entry, dict(found.entry.fleet)
    assert found.row.key is not None
    return Cell(
        name=entry.name,
        words=entry.words,
        key=found.row.key,
        inputs=(found.facts["plan_digest"], found.facts["source"]),
        version=version,
        options=entry.options,
        ledger=ledger,
        output=str(place.output.absolute()) if shared else "",
        store=place.store or "",
        signing=place.key or "",
        image=str(fleet.get("image", "")),
        resources=resources_of(dict(entry.options), fleet, found.facts.get("stages", [])),
        timeout=timeout,
        command=place.program if shared else tuple(fleet.get("command", ("lmi-compile",))),
    )
