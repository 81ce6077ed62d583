"""Writer of one safetensors file, from front to back, with sha256 and CRC computed on the way.

    8 bytes length | JSON header, padded with spaces | data, beginning at a multiple of 64 bytes, without holes

The format forbids holes between tensors, so their order decides how they are aligned: tensors whose size is a
multiple of 64 bytes come first, in plan order, then those of 32, 16 ... (`file_order`). Each tensor then
begins at a multiple of the largest power of two, up to 64, that divides its own size, so always at a multiple
of its element size.

Data come from any buffer (`append`) or from the aligned buffers of a `direct.Ring` (`room`, `put`): the ring's thread
writes those, bypassing the page cache if the file system allows.

An incomplete file is called NAME.part. A killed process leaves that file behind; the next writer of the same file takes
it over. A lock on it excludes a second writer.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING, NoReturn, TypeVar

from zlib_ng.zlib_ng import crc32

from compiler.errors import ResourceError
from compiler.model.lazy import ITEMSIZE
from compiler.storage.files.crc import crc_text
from compiler.storage.files.digest import SAFETENSORS, Descriptor
from compiler.storage.files.disk import PAGE, disk_full, open_direct, sync_folder, write_all, write_direct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np

T = TypeVar("T")
Crc32 = Callable[[bytes | memoryview, int], int]
"""CRC of a sequence of bytes, continued from the CRC of the bytes before it."""
Planned = tuple[str, str, tuple[int, ...]]
"""Name, dtype (safetensors spelling) and shape of a planned tensor."""

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector of any CPU that reads these files by mmap."""

_PART = ".part"


def file_order(tensors: Sequence[T], nbytes: Callable[[T], int]) -> list[T]:
    """Tensors in the order in which they are written (see the top of this file). Stable."""

    def alignment(tensor: T) -> int:
        size = nbytes(tensor)
        return min(size & -size, ALIGNMENT) if size else ALIGNMENT

    return sorted(tensors, key=alignment, reverse=True)


def encode_header(tensors: Sequence[Planned]) -> bytes:
    """Encode the 8-byte length and the header, padded to a multiple of ALIGNMENT. Tensors in file order."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + prod(shape) * ITEMSIZE[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    if len(fields) != len(tensors) + 1:
        raise ValueError("two tensors of one name in the plan of a file")
    header = json.dumps(fields, separators=(",", ":")).encode("ascii")
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    return len(header).to_bytes(8, "little") + header


class RankFileWriter:
    """Writer of one file; a context manager. `append`, or `room` and `put`, take the data in file order, in pieces of
    any size.

    Leaving the context without an error gives the file its name, durably, and sets `descriptor`; leaving it with an
    error removes the file. Raises DiskFullError, ResourceError (another process is writing it).
    """

    descriptor: Descriptor

    def __init__(self, path: Path, tensors: Sequence[Planned], crc: Crc32 | None = crc32) -> None:
        """`crc`: function that computes the CRC; None: leave it out, and save a pass over all bytes."""
        self.path = path
        self.header = encode_header(tensors)
        self.size = len(self.header) + sum(prod(shape) * ITEMSIZE[dtype] for _, dtype, shape in tensors)
        self._part = path.with_name(path.name + _PART)
        self._hash = hashlib.sha256()
        self._crc_of, self._crc = crc, 0
        self._paged = 0  # bytes in whole pages, written or in flight
        self._tail = b""  # bytes behind them, hashed: less than a page
        self._file = -1
        self._direct: int | None = None

    def __enter__(self) -> RankFileWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_locked(self._part)
        try:
            os.ftruncate(self._file, 0)
            os.posix_fallocate(self._file, 0, self.size)
            self._direct = open_direct(self._part)
            self.append(self.header)
        except OSError as error:
            self._remove()
            self._full(error)
        except BaseException:
            self._remove()
            raise
        return self

    def append(self, data: bytes | memoryview) -> None:
        """Hash and write the next bytes. Raises DiskFullError."""
        self._sum(data)
        view = memoryview(self._tail + bytes(data))
        offset, whole = self._cut(view)
        self._write(view[:whole], offset)

    def room(self, buffer: np.ndarray, nbytes: int) -> np.ndarray:
        """View of a `Ring`'s buffer for the next `nbytes` of the file; fill it, then call `put`.

        The bytes of the last incomplete page come before it, so that the buffer begins at a page of the file.
        """
        buffer[: len(self._tail)] = bytearray(self._tail)
        return buffer[len(self._tail) : len(self._tail) + nbytes]

    def put(self, buffer: np.ndarray, nbytes: int) -> Callable[[], None]:
        """Hash the next `nbytes`, filled into `room`, and return a function that writes them, for `Ring.submit`.

        It may run in any thread and must end before `sync`. It raises DiskFullError.
        """
        view = buffer.data[: len(self._tail) + nbytes]
        self._sum(view[len(self._tail) :])
        offset, whole = self._cut(view)
        return partial(self._write_direct, view[:whole], offset)

    def _sum(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        if self._crc_of is not None:
            self._crc = self._crc_of(data, self._crc)

    def _cut(self, view: memoryview) -> tuple[int, int]:
        """Keep the last incomplete page for later; offset in the file and length of the whole pages before it."""
        offset, whole = self._paged, len(view) // PAGE * PAGE
        self._paged, self._tail = offset + whole, bytes(view[whole:])
        return offset, whole

    def _write_direct(self, view: memoryview, offset: int) -> None:
        try:
            write_direct(self._direct, self._file, view, offset)
        except OSError as error:
            self._full(error)

    def _write(self, view: memoryview, offset: int) -> None:
        try:
            write_all(self._file, view, offset)
        except OSError as error:
            self._full(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._remove()
            return
        try:
            written = self._paged + len(self._tail)
            if written != self.size:
                raise ValueError(f"{self.path}: planned {self.size} bytes, got {written}")
            self.sync()
            self._part.replace(self.path)
            sync_folder(self.path.parent)
        except BaseException:
            self._remove()
            raise
        self._close()
        digest = "sha256:" + self._hash.hexdigest()
        crc = None if self._crc_of is None else crc_text(self._crc)
        self.descriptor = Descriptor(self.path.name, SAFETENSORS, digest, self.size, crc)

    def sync(self) -> None:
        """Write the last incomplete page, and wait until the file is on disk. Raises DiskFullError."""
        self._write(memoryview(self._tail), self._paged)
        try:
            os.fsync(self._file)
        except OSError as error:
            self._full(error)

    def _remove(self) -> None:
        self._part.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        os.close(self._file)
        if self._direct is not None:
            os.close(self._direct)

    def _full(self, error: OSError) -> NoReturn:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        raise disk_full(self.path, self.size, shutil.disk_usage(self.path.parent).free) from error


def check_space(folder: Path, files: Sequence[tuple[str, int]]) -> None:
    """Check that `files` (name, bytes) together fit on the disk of `folder`. Raises DiskFullError.

    Temporary files of an interrupted run will be overwritten, so they count as free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(nbytes for _, nbytes in files)
    parts = [folder / f"{name}{_PART}" for name, _ in files]
    free = shutil.disk_usage(folder).free + sum(part.stat().st_blocks * 512 for part in parts if part.exists())
    if needed > free:
        raise disk_full(folder, needed, free)


def _open_locked(part: Path) -> int:
    """Open `part` under an exclusive lock, without truncation: before that it may be another writer's finished file."""
    while True:
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if part.exists() and part.stat().st_ino == os.fstat(file).st_ino:
                return file
        except BlockingIOError:
            os.close(file)
            raise ResourceError(
                f"{part} is being written by another process",
                hint="wait for it, or choose another `--output`",
            ) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # renamed or removed between open and lock
