"""Text inside binary files, as strings(1) finds it."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTEST = 8
"""Minimal length of a run of text, in bytes. A power of two."""
_BLOCK = 8 << 20
_OVERLAP = 8 << 10
"""Bytes shared by two blocks: no search pattern is longer."""
_SEPARATOR = b"\xff"


def text_of(data: bytes | mmap.mmap) -> Iterator[bytes]:
    """Runs of printable ASCII, tabs and line ends, each with the byte before and after it; joined, block by block.

    Runs separated by one other byte, such as NUL between environment variables, stay together.
    """
    import numpy as np

    printable = np.zeros(256, dtype=bool)
    printable[32:127] = True
    printable[[9, 10, 13]] = True
    for begin in range(0, max(len(data) - _OVERLAP, 1), _BLOCK):
        block = data[max(begin - 1, 0) : begin + _BLOCK + _OVERLAP]
        run = printable[np.frombuffer(block, dtype=np.uint8)]
        width = 1
        while width < SHORTEST:  # run[i]: the `width` bytes from i on are text
            run = run[:-width] & run[width:]
            width *= 2
        found = np.flatnonzero(run)
        if not len(found):
            continue
        gaps = np.flatnonzero(np.diff(found) > SHORTEST + 1)
        starts, ends = found[[0, *(gaps + 1)]], found[[*gaps, -1]] + SHORTEST
        pieces = zip(starts.tolist(), ends.tolist(), strict=True)
        yield _SEPARATOR.join(block[max(start - 1, 0) : end + 1] for start, end in pieces)
