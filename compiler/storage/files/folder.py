"""Folders that are made under a lock and moved into place atomically.

The lock is flock(2) on the folder that is being made. It ends with its process, however that ends; files in a folder
that nobody holds are leftovers; a rename into place frees the name for the next holder.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import DiskFullError
from compiler.storage.files.disk import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POLL = 0.05
"""Seconds between two attempts to take a lock that another process holds."""


@contextmanager
def locked_folder(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make an empty folder and hold its lock. The folder is removed at the end if it still exists.

    While another process holds the lock, this one waits; it calls `waiting` first.
    """
    descriptor = _lock(folder, waiting)
    try:
        empty_folder(folder)
        yield
    finally:
        # After a rename, another process may already be making a folder of this name.
        if _same(folder, descriptor):
            remove_folder(folder)
        os.close(descriptor)


@contextmanager
def kept_folder(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Make a folder, or take over the one of an earlier holder, under its lock. It stays afterwards."""
    descriptor = _lock(folder, waiting)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_locked_folder(folder: Path) -> Iterator[bool]:
    """Try to lock an existing folder for the context; gives whether that succeeded."""
    descriptor = _try_lock(folder, create=False) if folder.is_dir() else None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path, waiting: Callable[[], None]) -> int:
    descriptor = _try_lock(folder, create=True)
    if descriptor is None:
        waiting()
    while descriptor is None:
        time.sleep(_POLL)
        descriptor = _try_lock(folder, create=True)
    return descriptor


def _try_lock(folder: Path, *, create: bool) -> int | None:
    """An open descriptor that holds the lock on the folder of this name now, or None."""
    if create:
        with suppress(FileExistsError):  # exist_ok would not prevent this: the folder may be vanishing
            folder.mkdir(parents=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not _same(folder, descriptor):  # its holder renamed or removed it in between
        os.close(descriptor)
        return None
    return descriptor


def _same(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def empty_folder(folder: Path) -> None:
    """Remove everything in a folder. Raises OSError."""
    for left in folder.iterdir():
        remove_folder(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder and everything in it; a missing folder is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def write_through(folder: Path) -> None:
    """fsync every file and folder below and including `folder`. Raises OSError."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            sync_folder(path)


def place(part: Path, output: Path) -> None:
    """Move the folder `part`, whose lock the caller holds, to `output`, replacing a folder there.

    The exchange is atomic if the file system supports it (renameat2 with RENAME_EXCHANGE). Raises OSError.
    """
    write_through(part)
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if not output.exists():
        part.rename(output)
    else:
        # The lock on the old folder keeps others away from the name `part` until it is removed.
        with try_locked_folder(output):
            if not _exchange(part, output):
                gone = part.with_name(f"{part.name}.old")
                remove_folder(gone)
                output.rename(gone)
                part.rename(output)
                gone.rename(part)
            remove_folder(part)
    sync_folder(output.parent)


def normal(output: Path) -> Path:
    """The path, absolute and without `..`: the folder is first made beside it, so its last name must be its own."""
    return Path(os.path.abspath(output))  # noqa: PTH100  # Path.resolve would follow a link at the output


@contextmanager
def disk_errors(output: Path) -> Iterator[None]:
    """Turn any disk-full OSError inside the context into a DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = Path(error.filename or output).absolute()
        where = next(folder for folder in (where, *where.parents) if folder.exists())
        raise DiskFullError(
            f"no space left at {where}: {shutil.disk_usage(where).free:,} bytes are free",
            hint="free some space, or choose another disk with `--output` and LMI_COMPILE_CACHE",
        ) from error


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically (renameat2(2)); False if that is not supported here."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0
