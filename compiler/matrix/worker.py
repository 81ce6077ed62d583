"""The machine of a cell: claim it, look whether its result is there, run the commands of its stage, note the result.

Each command runs in a process of its own, so that a build that the kernel ends for want of memory is reported as such.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ConflictError, LmiCompileError, StoreError
from compiler.machine import host, is_this_host
from compiler.matrix.command import CommandResult, run
from compiler.matrix.failures import CLAIMED_CODE, failure_of
from compiler.matrix.ledger import ARRAY, BEAT, Ledger
from compiler.matrix.stages import look_cell
from compiler.matrix.state import MatrixRow, address_of, key_of, log_file, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.matrix.cell import Cell
    from compiler.storage.files.digest import Digest

_INDEX = "AWS_BATCH_JOB_ARRAY_INDEX"
"""Variable by which AWS Batch tells a machine of an array job its index."""
_TAIL = 8192
"""Bytes at the end of a log in which the running step is looked up."""


def work(ledger: Ledger, token: str, beat: float = BEAT) -> MatrixRow:
    """Row of one attempt at the cell `token` of the ledger. Raises StoreError where the ledger cannot be reached.

    The folder LMI_COMPILE_EMPTY, which the machine's service would keep, is emptied at the end.
    """
    if token.startswith(ARRAY):
        token = ledger.member(token, int(os.environ[_INDEX]))
    cell = ledger.cell(token)
    scratch = None if cell.output else tempfile.mkdtemp(prefix="lmi-compile-")
    output = Path(scratch or cell.output)
    try:
        row = _claimed_row(ledger, cell, output, beat)
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        if folder := os.environ.get("LMI_COMPILE_EMPTY"):
            _empty(Path(folder))
    ledger.write_result(token, row)
    return row


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _claimed_row(ledger: Ledger, cell: Cell, output: Path, beat: float) -> MatrixRow:
    log = log_file(output, cell.name)
    try:
        with ledger.claimed(cell, lambda: step_of(log), beat), _shared_log(ledger, cell, log, beat):
            there = look_cell(ledger, cell, output)
            return there if there.state == "current" else _attempt(ledger, cell, output)
    except ConflictError:
        return MatrixRow(cell.name, "claimed", cell.key, exit_code=CLAIMED_CODE)
    except LmiCompileError as error:
        failure = failure_of(error.exit_code, error.message)
        return MatrixRow(cell.name, "failed", cell.key, None, "look", error.message, error.exit_code, failure=failure)


def _attempt(ledger: Ledger, cell: Cell, output: Path) -> MatrixRow:
    """Row of the commands of a cell's stage. The end of a stage is in the ledger before its row."""
    began = time.monotonic()
    commands = Commands(cell, log_file(output, cell.name), began + cell.timeout if cell.timeout else None)
    row = _STAGES[cell.stage](ledger, commands, output)
    row = replace(row, seconds=round(time.monotonic() - began, 1), host=host())
    if row.state == "built":
        ledger.write_end(row, cell.key)
        write_record(output, row)
    return row


@dataclass
class Commands:
    """Commands of a cell, one after the other, until one fails. `until`: time.monotonic() at which they are ended."""

    cell: Cell
    log: Path
    until: float | None

    def run(self, words: list[str]) -> CommandResult:
        return run(words, self.log, "a", program=self.cell.command, until=self.until)

    def row(self, step: str, ended: CommandResult) -> MatrixRow:
        """Row of the last command."""
        row = MatrixRow(self.cell.name, "built", self.cell.key)
        if ended.code == 0:
            return row
        failure = failure_of(ended.code, ended.error)
        return replace(row, state="failed", step=step, error=ended.error, exit_code=ended.code, failure=failure)


def _convert(ledger: Ledger, commands: Commands, output: Path) -> MatrixRow:
    """Rank files in the stage cache."""
    del ledger, output
    return commands.row("build", commands.run(["build", *commands.cell.words, "--until", "convert", "--json"]))


def _build(ledger: Ledger, commands: Commands, output: Path) -> MatrixRow:
    """Build, then scan, sign and push. Replaces an earlier artifact: the folder belongs to the matrix."""
    del ledger
    cell, artifact = commands.cell, str(output / commands.cell.name)
    ended = commands.run(["build", *cell.words, "--output", artifact, "--force", "--json"])
    row = commands.row("build", ended)
    if row.state == "built":
        row = replace(row, key=key_in(cell, ended), digest=json.loads(ended.out)["digest"])
        for words in _after(artifact, cell, row):
            ended = commands.run(words)
            if ended.code != 0:
                return commands.row(words[0], ended)
    return row


def _prove(ledger: Ledger, commands: Commands, output: Path) -> MatrixRow:
    """Fetch the artifact, and let it answer. The ledger has its answer, with both machines."""
    cell, built = commands.cell, ledger.end(commands.cell.artifact_key)
    builder = built.host if built is not None else ""
    if cell.another_host and (not builder or is_this_host(builder)):
        found = f"the one that built it, {builder}" if builder else "no record of the machine that built it"
        error = f"the proof of `{cell.artifact}` needs another machine; found {found}"
        return MatrixRow(
            cell.name, "failed", cell.key, None, "prove", error, 4, failure="host" if builder else "refused"
        )
    key = built.key if built is not None and built.key else cell.artifact_key
    folder = output / cell.artifact
    source = address_of(cell.store, cell.artifact, key) if cell.store else str(folder)
    with tempfile.TemporaryDirectory(prefix="lmi-compile-") as scratch:
        place = Path(scratch) / cell.artifact if cell.store else folder
        ended = commands.run(["prewarm", source, str(place), "--report", f"{scratch}/report.json", "--json"])
    row = commands.row("prewarm", ended)
    if row.state == "built":
        answer = json.loads(ended.out)
        ledger.write_proof(key, {"built_on": builder, "proved_on": host(), "prewarm": answer})
        row = replace(row, digest=built.digest if built is not None else None)
    return row


_STAGES = {"convert": _convert, "build": _build, "prove": _prove}


def key_in(cell: Cell, ended: CommandResult) -> Digest:
    """Cache key of a cell, from the JSON that its build printed: a branch may have moved since the plan."""
    facts = json.loads(ended.out)
    return key_of(cell, facts["plan_digest"], facts["source"], cell.version)


def step_of(log: Path) -> dict[str, Any]:
    """Running step in the log of a build, with done, total and unit where it reports progress."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        if line.startswith("$ lmi-compile "):
            return {"stage": line.split()[2]}
        if line.startswith('{"event": ') and (found := _event(line)):
            return {name: found[name] for name in ("stage", "done", "total", "unit", "seconds") if name in found}
    return {}


def _event(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # the beginning is cut off, or the end is not written yet
        return None
    return found if isinstance(found, dict) and found.get("stage") else None


def _after(artifact: str, cell: Cell, row: MatrixRow) -> Iterator[list[str]]:
    """Commands that follow a build, in order. There is no scan before a push, which scans itself."""
    if not cell.store:
        yield ["scan", artifact]
    if cell.signing:
        yield ["sign", artifact, "--key", cell.signing]
    if cell.store and row.key is not None:
        yield ["push", artifact, address_of(cell.store, cell.name, row.key)]


@contextmanager
def _shared_log(ledger: Ledger, cell: Cell, log: Path, beat: float) -> Iterator[None]:
    """Copies of the log in the ledger while a cell is built, and at its end: its machine may be elsewhere, and go away.

    Without a store the log is in the folder of the artifacts already.
    """
    ended = threading.Event()

    def keep() -> None:
        sent, last = -1, False
        while not last:
            last = ended.wait(beat)
            with suppress(OSError, StoreError):  # the next beat sends it
                data = log.read_bytes()
                if len(data) != sent:
                    ledger.write_log(cell.token, data)
                    sent = len(data)

    thread = threading.Thread(target=keep, name="log", daemon=True)
    if cell.store:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if cell.store:
            thread.join()
