"""Classes of failures, and the number of times that a cell is begun again after each."""

from __future__ import annotations

from typing import Literal

Failure = Literal["", "usage", "source", "refused", "memory", "timeout", "lost", "store", "host", "failed"]
"""`lost`: the machine or the process of the cell went away; `memory`: too little memory or disk; `host`: a proof on
the machine that built it; `failed`: others.
"""

RETRIES: dict[str, int] = {"lost": 3, "store": 3, "memory": 1, "timeout": 1, "host": 3}
"""Further attempts after failures of a class; others would fail in the same way."""

TIMEOUT_CODE = 124
LOST_CODE = 143
CLAIMED_CODE = 75

_CODES: dict[int, Failure] = {
    0: "", 2: "usage", 3: "source", 4: "refused", 5: "memory", 10: "store", TIMEOUT_CODE: "timeout", 130: "lost",
    137: "memory", LOST_CODE: "lost",
}  # fmt: skip
"""Class of each exit code. 137: SIGKILL, as a rule of the kernel for want of memory; 130 and 143: the machine stops."""


def failure_of(code: int, message: str = "") -> Failure:
    """Class of a failed command."""
    if code != 0 and ("MemoryError" in message or "out of memory" in message.lower()):
        return "memory"
    return _CODES.get(code, "failed")
