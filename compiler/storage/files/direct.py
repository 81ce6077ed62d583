"""Aligned buffers, filled in one thread and written in another, bypassing the page cache.

    filling    buffer 0 │ buffer 1 │ buffer 2 │ buffer 0 ...
    writing               buffer 0 │ buffer 1 │ buffer 2 ...

Direct writes (disk.py) move whole pages only: bytes that do not fill a page of their file wait in `RankFile` for the
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
"""Buffers in rotation: one being filled, one being written, one to absorb differences in speed."""

PADDING = COUNT * 2 * PAGE
"""Bytes of memory of a `Ring` beyond COUNT times its size."""


class Ring:
    """Rotating buffers for blocks of up to `size` bytes; a context manager. One thread fills them."""

    def __init__(self, size: int) -> None:
        self._buffers = [_aligned(size + PAGE) for _ in range(COUNT)]
        self._writes: list[Future[None]] = []
        self._writer = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the submitted writes, successful or not."""
        self._writer.shutdown(cancel_futures=kind is not None)

    def next(self) -> np.ndarray:
        """The next free buffer: uint8, page-aligned. Raises the error of the last write from it."""
        if len(self._writes) == COUNT:
            self._writes.pop(0).result()
        self._buffers.append(self._buffers.pop(0))
        return self._buffers[-1]

    def submit(self, write: Callable[[], None]) -> None:
        """Start the write of the buffer that `next` gave; call it once for each."""
        self._writes.append(self._writer.submit(write))

    def drain(self) -> None:
        """Wait for all writes. Raises the first error among them."""
        while self._writes:
            self._writes.pop(0).result()


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + PAGE, np.uint8)
    first = -memory.__array_interface__["data"][0] % PAGE
    return memory[first : first + size]
