"""Plan and build the entries of a matrix. Each is a run of this command line in a process of its own: what kills one
build, an out-of-memory killer included, stops none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.matrix.state import Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.matrix.file import Entry
    from compiler.report import Report


@dataclass(frozen=True)
class Place:
    """`output`: folder of the artifacts. `store`: where they are published, `key`: PEM file they are signed with."""

    output: Path
    store: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended. `error`: what it said last on stderr, without the word `error:`."""

    code: int
    out: str
    error: str


def plan(entries: Sequence[Entry], place: Place, version: str, report: Report, jobs: int = 1) -> list[Row]:
    """What a build would do with each entry, in their order. `version`: of lmi-compile. Raises StoreError."""
    report.begin("plan")
    rows = _each(entries, lambda entry: _planned(entry, place, version), report, "builds", jobs)
    report.end(counts(rows))
    return rows


def build(entries: Sequence[Entry], place: Place, version: str, report: Report, jobs: int = 1) -> list[Row]:
    """Build, scan, sign and push what is not current, `jobs` at a time; a row for each entry. Raises StoreError."""
    rows = plan(entries, place, version, report, jobs)
    todo = [(entry, row) for entry, row in zip(entries, rows, strict=True) if row.todo]
    report.begin("build")
    done = _each([entry for entry, _ in todo], dict(todo_by_name(todo, place)).__getitem__, report, "builds", jobs)
    by_name = {row.name: row for row in done}
    rows = [by_name.get(row.name, row) for row in rows]
    report.end(counts(rows))
    return rows


def counts(rows: Sequence[Row]) -> str:
    """`2 built, 1 failed, 5 current`."""
    states = [row.state for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "nothing"
