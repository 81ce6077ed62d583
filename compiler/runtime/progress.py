"""How far every rank is, in memory that all ranks share: who stalled is read there, not guessed.

One row of int64 a rank: (steps begun, collectives begun, state). The memory is an anonymous file: it is gone with the
last process that has it open, whatever ends that process.
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
    """Where a rank is: steps and collectives it has begun, and the state it is in."""

    step: int
    collective: int
    state: int

    def __str__(self) -> str:
        return f"step {self.step}, collective {self.collective}, {_STATES[self.state]}"


class Board:
    """The rows of all ranks. Each rank writes its own only, so there is nothing to lock."""

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
    """A board of zeros and the file descriptor by which followers share it; the caller closes both."""
    fd = os.memfd_create("lmi-compile-progress", os.MFD_CLOEXEC)
    os.ftruncate(fd, ranks * _WORDS * 8)
    return fd, Board(fd, ranks)
