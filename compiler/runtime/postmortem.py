"""How a process ended or why it does not go on, from what Linux says of it."""

from __future__ import annotations

import signal
from pathlib import Path

from compiler.runtime.progress import IN_COLLECTIVE, Place


def ending(code: int, out_of_memory: bool) -> tuple[str, str]:
    """How a process ended, in words, and what to do about it."""
    if code >= 0:
        return f"ended with exit code {code}", "The last lines of its standard error stand above."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hints = {
        "SIGKILL": "The kernel has killed a process for lack of memory meanwhile: fewer positions or rows need less."
        if out_of_memory
        else "Nobody's `kill -9`? Then it was probably the out-of-memory killer: `dmesg` tells.",
        "SIGILL": "The artifact was compiled for another CPU: build it again with `--march x86-64-v3`.",
    }
    return f"was ended by {name}", hints.get(name, "The last lines of its standard error stand above.")


def suspicion(place: Place, state: str) -> tuple[bool, int, int, bool]:
    """Sorts the rank that stalls before those that wait for it: stopped first, then the one that is least far.

    `state`: of `process_state`. Of several equally far, the one that is not itself waiting for the others.
    """
    return state not in ("T", "t", "D"), place.step, place.collective, place.state == IN_COLLECTIVE


def process_state(pid: int) -> str:
    """The letter of proc(5): R running, S sleeping, D waiting for a disk, T stopped, t traced."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def kills_for_memory() -> int:
    """How often this system's kernel has killed a process for lack of memory (proc_vmstat: oom_kill)."""
    try:
        words = Path("/proc/vmstat").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0


def quote(tail: str) -> str:
    """The last lines of a log as they stand in an error; nothing of an empty one."""
    return "\n" + "\n".join(f"  | {line}" for line in tail.splitlines()[-15:]) if tail else ""
