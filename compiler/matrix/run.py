"""Plan and build the entries of a matrix, each with this command line in a process of its own: a build that is killed,
by the out-of-memory killer too, stops none of the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from compiler.matrix.state import MatrixRow, address_of, key_of, log_file, look, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from compiler.matrix.file import BuildEntry
    from compiler.report import Report
    from compiler.storage.files.digest import Digest

_COMMAND = (sys.executable, "-m", "compiler")


@dataclass(frozen=True)
class Destination:
    """Destination of a matrix. `output`: folder of the artifacts. `store`: URI to publish to; `key`: PEM file to sign
    with.
    """

    output: Path
    store: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class CommandResult:
    """Result of a command: exit code, stdout, and the error message at the end of its stderr."""

    code: int
    out: str
    error: str


def plan(
    entries: Sequence[BuildEntry], place: Destination, version: str, report: Report, jobs: int = 1
) -> list[MatrixRow]:
    """Rows of the entries before a build, in their order. `version`: lmi-compile's. Raises StoreError."""
    report.begin("plan")
    rows = _each([partial(_planned, entry, place, version) for entry in entries], report, jobs)
    report.end(counts(rows))
    return rows


def build(
    entries: Sequence[BuildEntry], place: Destination, version: str, report: Report, jobs: int = 1
) -> list[MatrixRow]:
    """Build, scan, sign and push the entries that are not current, `jobs` at a time. Returns a row for each entry.

    Raises StoreError.
    """
    rows = plan(entries, place, version, report, jobs)
    report.begin("build")
    todo = [(entry, row) for entry, row in zip(entries, rows, strict=True) if row.todo]
    done = _each([partial(_built, entry, row, place, version) for entry, row in todo], report, jobs)
    by_name = {row.name: row for row in done}
    rows = [by_name.get(row.name, row) for row in rows]
    report.end(counts(rows))
    return rows


def counts(rows: Sequence[MatrixRow]) -> str:
    """Number of rows in each state: `2 built, 1 failed, 5 current`."""
    states = [row.state for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "nothing to do"


def _each(work: Sequence[Callable[[], MatrixRow]], report: Report, jobs: int) -> list[MatrixRow]:
    """Rows in the order of `work`. An exception cancels the work that has not begun."""
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


def _planned(entry: BuildEntry, place: Destination, version: str) -> MatrixRow:
    ended = _run(["build", *entry.words, "--until", "plan", "--json"], log_file(place.output, entry.name), "w")
    if ended.code != 0:
        return MatrixRow(entry.name, "refused", step="plan", error=ended.error, exit_code=ended.code)
    return look(entry, _key(entry, ended, version), place.output, place.store)


def _key(entry: BuildEntry, ended: CommandResult, version: str) -> Digest:
    """Cache key of an entry, from the JSON that a build printed."""
    facts = json.loads(ended.out)
    return key_of(entry, facts["plan_digest"], facts["source"], version)


def _built(entry: BuildEntry, row: MatrixRow, place: Destination, version: str) -> MatrixRow:
    """Build, then scan, sign and push. Replaces an earlier artifact: the folder belongs to the matrix."""
    began, log, artifact = time.monotonic(), log_file(place.output, entry.name), str(place.output / entry.name)
    step, ended = "build", _run(["build", *entry.words, "--output", artifact, "--force", "--json"], log, "a")
    if ended.code == 0:
        row = replace(row, key=_key(entry, ended, version), digest=json.loads(ended.out)["digest"])
        for words in _after(artifact, entry, row, place):
            step, ended = words[0], _run(words, log, "a")
            if ended.code != 0:
                break
    row = replace(row, seconds=round(time.monotonic() - began, 1))
    if ended.code == 0:
        row = replace(row, state="built")
    else:
        row = replace(row, state="failed", digest=None, step=step, error=ended.error, exit_code=ended.code)
    write_record(place.output, row)
    return row


def _after(artifact: str, entry: BuildEntry, row: MatrixRow, place: Destination) -> Iterator[list[str]]:
    """Commands that follow a build, in order. There is no scan before a push, which scans itself."""
    if place.store is None:
        yield ["scan", artifact]
    if place.key is not None:
        yield ["sign", artifact, "--key", place.key]
    if place.store is not None and row.key is not None:
        yield ["push", artifact, address_of(place.store, entry.name, row.key)]


def _run(words: Sequence[str], log: Path, mode: str) -> CommandResult:
    """Run this command line with stderr in `log`. `mode`: "w" truncates the log, "a" appends to it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open(mode) as file:
        file.write(f"$ lmi-compile {' '.join(words)}\n")
        file.flush()
        begin = file.tell()
        ran = subprocess.run([*_COMMAND, *words], stdout=subprocess.PIPE, stderr=file, text=True, check=False)
    output = log.read_bytes()[begin:].decode(errors="replace")
    return CommandResult(_exit_code(ran.returncode), ran.stdout, _message(output, ran.returncode))


def _exit_code(code: int) -> int:
    """Exit code as a shell gives it: 128 plus the signal's number for a process that a signal ended."""
    return 128 - code if code < 0 else code


def _message(output: str, code: int) -> str:
    """Error message in the stderr of a command: of the JSON error, or after the last `error: ` without the hint; else
    the signal that ended the process, or its last line.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if last.startswith('{"error": '):
        return str(json.loads(last)["error"]["message"])
    _, found, rest = ("\n" + output).rpartition("\nerror: ")
    if found:
        return rest.partition("\n\nhint: ")[0].strip()
    killed = f"ended by signal {-code}" if code < 0 else ""
    return killed or last or f"exit code {code}"
