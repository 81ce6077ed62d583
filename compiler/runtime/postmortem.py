"""Diagnosis of a process that ended or stalls, from Linux's records."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.runtime.progress import IN_COLLECTIVE, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUOTED = 12
"""Number of lines of a log that an error quotes."""
_FRAME = re.compile(r'\s*File "[^"]*", line \d+')
_HEADING = re.compile(
    r"(Traceback \(most|Stack \(most|Current thread|Thread 0x|During handling of|The above exception|\s*[~^]+\s*$)"
)
"""Lines around the frames of a traceback, by the interpreter and by faulthandler."""


def ending(code: int, out_of_memory: bool) -> tuple[str, str]:
    """Text of how a process ended, and a hint. `out_of_memory`: the kernel killed a process since the start."""
    if code >= 0:
        return f"ended with exit code {code}", "Its log has the reason."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hints = {
        "SIGKILL": "The kernel has killed a process for lack of memory meanwhile: fewer positions or rows need less."
        if out_of_memory
        else "Unless someone ran `kill -9`, it was probably the out-of-memory killer: see `dmesg`.",
        "SIGILL": "The artifact was compiled for another CPU: build it again with `--march x86-64-v3`.",
    }
    return f"was ended by {name}", hints.get(name, "Its log has the reason.")


def suspicion(place: Place, state: str) -> tuple[bool, int, int, bool]:
    """Sort key that puts the stalled rank before those that wait for it: stopped ranks first, then the least advanced.

    `state`: result of `process_state`. Between equally advanced ranks, one outside a collective is first.
    """
    return state not in ("T", "t", "D"), place.step, place.collective, place.state == IN_COLLECTIVE


def process_state(pid: int) -> str:
    """State letter of proc(5): R running, S sleeping, D waiting for a disk, T stopped, t traced; ? for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def kills_for_memory() -> int:
    """Number of processes that the kernel has killed for lack of memory (proc_vmstat: oom_kill)."""
    try:
        words = Path("/proc/vmstat").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0


def quote(log: str) -> str:
    """Last lines of a log in the form of an error message, without the frames of tracebacks; "" for an empty log."""
    lines = [line for line in _without_frames(log) if line.strip()]
    return "\n" + "\n".join(f"  | {line}" for line in lines[-_QUOTED:]) if lines else ""


def _without_frames(log: str) -> Iterator[str]:
    frame = False
    for line in log.splitlines():
        # The source line of a frame follows it.
        inside, frame = frame and line.startswith("    "), _FRAME.match(line) is not None
        if not inside and not frame and not _HEADING.match(line):
            yield line
