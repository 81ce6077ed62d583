"""Diagnosis of a process that ended or stalls, from Linux's records."""

from __future__ import annotations

import signal
from pathlib import Path

from compiler.runtime.progress import IN_COLLECTIVE, Place


def ending(code: int, out_of_memory: bool) -> tuple[str, str]:
    """Text of how a process ended, and a hint. `out_of_memory`: the kernel killed a process since the start."""
    if code >= 0:
        return f"ended with exit code {code}", "The last lines of its standard error are above."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hints = {
        "SIGKILL": "The kernel has killed a process for lack of memory meanwhile: fewer positions or rows need less."
        if out_of_memory
        else "Unless someone ran `kill -9`, it was probably the out-of-memory killer: see `dmesg`.",
        "SIGILL": "The artifact was compiled for another CPU: build it again with `--march x86-64-v3`.",
    }
    return f"was ended by {name}", hints.get(name, "The last lines of its standard error are above.")


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


def quote(tail: str) -> str:
    """Last lines of a log in the form of an error message; "" for an empty log."""
    return "\n" + "\n".join(f"  | {line}" for line in tail.splitlines()[-15:]) if tail else ""
