"""Commands of rank 0 to the followers, as bytes on their standard input: a header of int64 and the arrays of a step.

    CONNECT port                          join the group
    ALLOCATE batch length                 larger caches with the content of the earlier ones
    STEP batch length wanted used first   then token_ids, positions [batch, length] and last [batch, wanted]
    SWAP source target                    two rows of all caches

The end of the input means stop; it also comes when rank 0 dies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

_HEADER = struct.Struct("<6q")
_CONNECT, _ALLOCATE, _STEP, _SWAP = range(1, 5)


@dataclass(frozen=True)
class Connect:
    port: int


@dataclass(frozen=True)
class Allocate:
    """Allocate caches of `batch` rows and `length` positions, no fewer than before. Their content is kept."""

    batch: int
    length: int


@dataclass(frozen=True)
class StepCommand:
    """One pass of `batch` rows with `length` tokens each through the model.

    token_ids, positions [batch, length]: tokens and their positions in their rows. last [batch, wanted]: indices of the
    tokens whose logits are returned, none where `wanted` is 0. used: number of cache positions to attend to. first: row
    of the caches that the step's first row is; the others follow it.
    """

    token_ids: Ids
    positions: Ids
    last: Ids
    used: int
    first: int = 0


@dataclass(frozen=True)
class Swap:
    """Exchange two rows of all caches."""

    source: int
    target: int


Command = Connect | Allocate | StepCommand | Swap


def encode(command: Command) -> bytes:
    match command:
        case Connect(port):
            return _HEADER.pack(_CONNECT, port, 0, 0, 0, 0)
        case Allocate(batch, length):
            return _HEADER.pack(_ALLOCATE, batch, length, 0, 0, 0)
        case Swap(source, target):
            return _HEADER.pack(_SWAP, source, target, 0, 0, 0)
        case StepCommand(token_ids, positions, last, used, first):
            batch, length = token_ids.shape
            header = _HEADER.pack(_STEP, batch, length, last.shape[1], used, first)
            return header + token_ids.tobytes() + positions.tobytes() + last.tobytes()


def decode(read: Callable[[int], bytes]) -> Command | None:
    """Next command of a stream; None at its end. `read(n)` returns n bytes, fewer only at the end."""
    header = read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    kind, a, b, c, d, e = _HEADER.unpack(header)
    match kind:
        case 1:
            return Connect(a)
        case 2:
            return Allocate(a, b)
        case 4:
            return Swap(a, b)
    size = 8 * (2 * a * b + a * c)
    data = read(size)
    if len(data) < size:
        return None
    words = np.frombuffer(data, dtype=np.int64)
    token_ids, positions, last = np.split(words, [a * b, 2 * a * b])
    return StepCommand(token_ids.reshape(a, b), positions.reshape(a, b), last.reshape(a, c), d, e)
