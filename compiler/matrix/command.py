"""A command of lmi-compile as a process, with its exit code and error message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.matrix.failures import TIMEOUT_CODE
from compiler.targets import guard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROGRAM = (sys.executable, "-m", "compiler")


@dataclass(frozen=True)
class CommandResult:
    """Result of a command: exit code, stdout, and the error message at the end of its stderr."""

    code: int
    out: str
    error: str


def run(
    words: Sequence[str], log: Path, mode: str, *, program: Sequence[str] = PROGRAM, until: float | None = None
) -> CommandResult:
    """Run this command line with stderr in `log`. `mode`: "w" truncates the log, "a" appends to it. `until`:
    time.monotonic() at which it is killed. Its process group ends with it, and with this process (targets/guard.py).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open(mode) as file:
        file.write(f"$ lmi-compile {' '.join(words)}\n")
        file.flush()
        begin = file.tell()
        with guarded([*program, *words], stdout=subprocess.PIPE, stderr=file) as child:
            try:
                out, _ = child.communicate(timeout=None if until is None else max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                return CommandResult(TIMEOUT_CODE, "", "ended by the time limit of the cell")
    output = log.read_bytes()[begin:].decode(errors="replace")
    return CommandResult(_exit_code(child.returncode), out.decode(errors="replace"), _message(output, child.returncode))


@contextmanager
def guarded(line: Sequence[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Process whose group is killed at the end of the context, and with this process."""
    guard_end, our_end = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *line], stdin=guard_end, start_new_session=True, **streams
        )
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    finally:
        os.close(guard_end)
        os.close(our_end)


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
    number = -code if code < 0 else code - 128  # the guard gives it as a shell does
    killed = f"ended by signal {number}" if number > 0 else ""
    return killed or last or f"exit code {code}"
