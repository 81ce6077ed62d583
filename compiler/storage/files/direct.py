"""Aligned buffers that are filled in one thread and written in another, past the page cache.

    filling    buffer 0 │ buffer 1 │ buffer 2 │ buffer 0 ...
    writing               buffer 0 │ buffer 1 │ buffer 2 ...

Such writes (storage/files/disk.py) move whole pages only, so what does not fill a page of its file waits in `RankFile` for the
next buffer.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from compiler.storage.files.disk import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

COUNT = 3
"""Buffers in turn: one is filled, one is written, and one evens out which of the two is faster."""

PADDING = COUNT * 2 * PAGE
"""Bytes that a `Ring` takes besides COUNT times its size."""


class Ring:
    """Buffers for blocks of up to `size` bytes, in turn; a context manager. One thread fills them."""

    def __init__(self, size: int) -> None:
        self._buffers = [_aligned(size + PAGE) for _ in range(COUNT)]
        self._writes: list[Future[None]] = []
        self._writer = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was submitted is over afterwards, with or without success."""
        self._writer.shutdown(cancel_futures=kind is not None)

    def next(self) -> np.ndarray:
        """A buffer of uint8 that nothing is written from any more, and the first of whose bytes has an aligned address.

        Raises what the write from it raised.
        """
        if len(self._writes) == COUNT:
            self._writes.pop(0).result()
        self._buffers.append(self._buffers.pop(0))
        return self._buffers[-1]

    def submit(self, write: Callable[[], None]) -> None:
        """Have the buffer that `next` gave written; call it once for each."""
        self._writes.append(self._writer.submit(write))

    def drain(self) -> None:
        """Wait for all writes. Raises what one of them raised."""
        while self._writes:
            self._writes.pop(0).result()


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + PAGE, np.uint8)
    first = -memory.__array_interface__["data"][0] % PAGE
    return memory[first : first + size]
