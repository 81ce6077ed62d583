"""Folders that are made under a lock and put in place whole.

The lock is flock(2) on the folder that is being made. It ends with its process, however that ends; what is
found in a folder that nobody holds is rubbish; a folder that was renamed into place has left its lock's name
free for the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compiler.store.writer import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make `folder`, empty, and hold its lock; waits for another holder. Removed at the end if still there."""
    descriptor = _lock(folder, wait=True)
    assert descriptor is not None
    try:
        for left in folder.iterdir():
            remove_folder(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        # Renamed by a commit: then another process may already be making a folder of this name.
        if _same(folder, descriptor):
            remove_folder(folder)
        os.close(descriptor)


@contextmanager
def try_locked_folder(folder: Path) -> Iterator[bool]:
    """Whether nobody holds the lock on an existing folder; it is ours inside the context."""
    descriptor = _lock(folder, wait=False) if folder.is_dir() else None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path, *, wait: bool) -> int | None:
    while True:
        if wait:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if wait:
                continue
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _same(folder, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder renamed or removed it while we waited


def _same(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it, gone already or not."""
    shutil.rmtree(folder, ignore_errors=True)


def write_through(folder: Path) -> None:
    """fsync every file and folder below and including `folder`. Raises OSError."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            sync_folder(path)
