"""A toolchain's command as a process: with a log, a time limit, and no processes left behind, however a build ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compiler.targets import guard

NOT_STARTED = 127
"""Exit code of a command that cannot be started."""
_WATCH_S = 1.0
"""Seconds between two calls of `watch`."""
_OOM_EVENTS = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True)
class Ended:
    """End of a process. `code`: exit code, 128 + n if signal n ended it; None: it exceeded the time limit. `output`:
    its whole log. `out_of_memory`: killed by signal 9, or while the kernel killed processes of this control group.
    """

    code: int | None
    output: str
    out_of_memory: bool

    def tail(self, lines: int) -> str:
        """Last lines of the output."""
        return "\n".join(self.output.splitlines()[-lines:])


def run_guarded(
    line: Sequence[str],
    log: Path,
    timeout: float,
    watch: Callable[[], None] = lambda: None,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command with its output in `log`. Its process group ends with it and with this process (guard.py).
    `watch` is called every second; `timeout` in seconds; `environment` None: this process's.
    """
    killed_before = _oom_kills()
    guarded = [sys.executable, "-I", "-S", guard.__file__, *line]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            guarded,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=cwd,
            env=None if environment is None else dict(environment),
        )
        try:
            code = _wait(process, timeout, watch)
        finally:
            _end(process)
    output = log.read_text(encoding="utf-8", errors="replace")
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL) or (code not in (0, None) and _oom_kills() > killed_before)
    return Ended(code, output, killed)


def _wait(process: subprocess.Popen[bytes], timeout: float, watch: Callable[[], None]) -> int | None:
    """Exit code; None after the time limit."""
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(left, _WATCH_S))
        watch()
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, the guard's session: workers outlive a builder that dies."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _oom_kills() -> int:
    """Number of out-of-memory kills in this control group; 0 if unknown."""
    if not _OOM_EVENTS.exists():
        return 0
    counts = dict(line.split() for line in _OOM_EVENTS.read_text(encoding="ascii").splitlines())
    return int(counts.get("oom_kill", 0))
