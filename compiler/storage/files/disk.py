"""Disk primitives: direct writes, durable renames, the disk-full error.

A write with O_DIRECT bypasses the page cache: no copy, no work left for fsync, and the cache keeps the pages that are
being read, such as those of a model that is served while the next one is fetched. It moves whole pages from aligned
memory only.
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
"""Bytes: a multiple of every disk's block size. O_DIRECT requires it of addresses, offsets and lengths."""


def open_direct(path: Path) -> int | None:
    """A descriptor for direct writes; None if the file system does not support them."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (OSError, AttributeError):  # e.g. older tmpfs; O_DIRECT is not in POSIX
        return None


def page_aligned(nbytes: int) -> memoryview:
    """New page-aligned memory."""
    return memoryview(mmap.mmap(-1, nbytes))


def write_direct(direct: int | None, file: int, view: memoryview, offset: int) -> None:
    """Write `view`, page-aligned like `offset`: whole pages through `direct`, the rest through `file`, a descriptor of
    the same file without O_DIRECT. Raises OSError.
    """
    pages = 0 if direct is None else len(view) // PAGE * PAGE
    if direct is not None:
        try:
            write_all(direct, view[:pages], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pages = 0  # this file system accepts O_DIRECT and then requires other sizes
    write_all(file, view[pages:], offset + pages)


def write_all(file: int, view: memoryview, offset: int) -> None:
    """Write all of `view` at byte `offset` of the file. Raises OSError."""
    while view.nbytes:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def link_read_only(source: Path, target: Path) -> bool:
    """Hard-link a read-only file, and say whether; False too if the file system cannot. Raises OSError.

    A file that may be written is not linked: a write to one name would change the other too.
    """
    if source.stat().st_mode & 0o222 or source.is_symlink():
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_full(path: Path, needed: int, free: int) -> DiskFullError:
    """The error for a full disk, with the bytes that `path` needs and the bytes that are free."""
    return DiskFullError(
        f"no space for {path}: needs {needed:,} bytes, {free:,} are free on its disk",
        hint=f"free {max(needed - free, 0):,} bytes, or choose a folder on another disk with `--output`",
    )
