"""The machine of a cell: claim it, look whether its artifact is there, build, scan, sign and push it, note the result.

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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ConflictError, LmiCompileError, StoreError
from compiler.matrix.command import CommandResult, run
from compiler.matrix.failures import CLAIMED_CODE, failure_of
from compiler.matrix.ledger import BEAT, Ledger
from compiler.matrix.state import MatrixRow, address_of, key_of, log_file, look, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.matrix.cell import Cell
    from compiler.storage.files.digest import Digest

_TAIL = 8192
"""Bytes at the end of a log in which the running step is looked up."""


def work(ledger: Ledger, token: str, beat: float = BEAT) -> MatrixRow:
    """Row of one attempt at the cell `token` of the ledger. Raises StoreError where the ledger cannot be reached.

    The folder LMI_COMPILE_EMPTY, which the machine's service would keep, is emptied at the end.
    """
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
            there = look(cell, cell.key, output, cell.store or None)
            return there if there.state == "current" else build(cell, output)
    except ConflictError:
        return MatrixRow(cell.name, "claimed", cell.key, exit_code=CLAIMED_CODE)
    except LmiCompileError as error:
        failure = failure_of(error.exit_code, error.message)
        return MatrixRow(cell.name, "failed", cell.key, None, "look", error.message, error.exit_code, failure=failure)


def build(cell: Cell, output: Path) -> MatrixRow:
    """Build, then scan, sign and push. Replaces an earlier artifact: the folder belongs to the matrix."""
    began, log, artifact = time.monotonic(), log_file(output, cell.name), str(output / cell.name)
    until = began + cell.timeout if cell.timeout else None
    row = MatrixRow(cell.name, "new", cell.key)
    words = ["build", *cell.words, "--output", artifact, "--force", "--json"]
    step, ended = "build", run(words, log, "a", program=cell.command, until=until)
    if ended.code == 0:
        row = replace(row, key=key_in(cell, ended), digest=json.loads(ended.out)["digest"])
        for words in _after(artifact, cell, row):
            step, ended = words[0], run(words, log, "a", program=cell.command, until=until)
            if ended.code != 0:
                break
    row = replace(row, seconds=round(time.monotonic() - began, 1))
    if ended.code == 0:
        row = replace(row, state="built")
        write_record(output, row)
        return row
    failure = failure_of(ended.code, ended.error)
    return replace(
        row, state="failed", digest=None, step=step, error=ended.error, exit_code=ended.code, failure=failure
    )


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
