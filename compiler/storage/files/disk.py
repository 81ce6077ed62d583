"""What is asked of a disk: writes past the page cache, names that survive a loss of power, the error when it is full.

A write with O_DIRECT takes the bytes from where they stand: no copy into the page cache, nothing left for fsync to do,
and the cache keeps what is being read, such as the model that is served while the next one is fetched. It moves whole
pages from aligned memory only.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

from compiler.errors import DiskFullError

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
"""Bytes: a multiple of the block size of every disk, which is what O_DIRECT asks of memory, offsets and lengths."""


def open_direct(path: Path) -> int | None:
    """A descriptor for writing past the page cache; None where the file system has no such thing."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (OSError, AttributeError):  # e.g. older tmpfs; O_DIRECT is no part of POSIX
        return None


def page_aligned(nbytes: int) -> memoryview:
    """New memory that begins where a page does."""
    return memoryview(mmap.mmap(-1, nbytes))


def write_direct(direct: int | None, file: int, view: memoryview, offset: int) -> None:
    """Write `view`, which is page-aligned as `offset` is: whole pages through `direct`, what is left through `file`, a
    descriptor of the same file without O_DIRECT. Raises OSError.
    """
    pages = 0 if direct is None else len(view) // PAGE * PAGE
    if direct is not None:
        try:
            write_all(direct, view[:pages], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pages = 0  # this file system opens files for direct writes and then wants other sizes
    write_all(file, view[pages:], offset + pages)


def write_all(file: int, view: memoryview, offset: int) -> None:
    """All of `view` at byte `offset` of the file. Raises OSError."""
    while view.nbytes:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_full(path: Path, needed: int, free: int) -> DiskFullError:
    """The error that says how much `path` needs and how much is free (bytes)."""
    return DiskFullError(
        f"no space for {path}: needs {needed:,} bytes, {free:,} are free on its disk",
        hint=f"free {max(needed - free, 0):,} bytes, or choose a folder on another disk with `--output`",
    )
