"""Progress of every rank in shared memory, from which a stalled rank is identified.

One row of int64 per rank: (steps begun, collectives begun, state). The memory is an anonymous file, which disappears
with the last process that has it open.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Final

_WORDS = 3
_STEP, _COLLECTIVE, _STATE = range(_WORDS)

# 0, which new memory holds: the rank is starting.
LOADED: Final = 1
IDLE: Final = 2
COMPUTING: Final = 3
IN_COLLECTIVE: Final = 4
_STATES = ("starting", "loaded", "waiting for a command", "computing", "in a collective")


@dataclass(frozen=True)
class Place:
    """Progress of a rank: number of steps and collectives that it has begun, and its state."""

    step: int
    collective: int
    state: int

    def __str__(self) -> str:
        return f"step {self.step}, collective {self.collective}, {_STATES[self.state]}"


class Board:
    """Rows of all ranks. Each rank writes only its own, so there is no lock."""

    def __init__(self, fd: int, ranks: int) -> None:
        self._map = mmap.mmap(fd, ranks * _WORDS * 8)
        self._words = memoryview(self._map).cast("q")

    def at(self, rank: int) -> Place:
        row = rank * _WORDS
        return Place(*self._words[row : row + _WORDS])

    def enter(self, rank: int, state: int) -> None:
        self._words[rank * _WORDS + _STATE] = state

    def begin_step(self, rank: int) -> None:
        self._words[rank * _WORDS + _STEP] += 1
        self._words[rank * _WORDS + _STATE] = COMPUTING

    def begin_collective(self, rank: int) -> None:
        self._words[rank * _WORDS + _COLLECTIVE] += 1
        self._words[rank * _WORDS + _STATE] = IN_COLLECTIVE

    def close(self) -> None:
        self._words.release()
        self._map.close()


def new_board(ranks: int) -> tuple[int, Board]:
    """File descriptor through which followers share a board, and the board, all zeros. The caller closes both."""
    fd = os.memfd_create("lmi-compile-progress", os.MFD_CLOEXEC)
    os.ftruncate(fd, ranks * _WORDS * 8)
    return fd, Board(fd, ranks)
