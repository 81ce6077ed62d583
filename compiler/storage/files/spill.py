"""Rows of float32 on disk: written once from front to back, read in ranges. They survive a kill.

For data that certainly exceeds memory. Written and read through the page cache, which uses the memory that is free and
does not count as the process's own.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from compiler.errors import CheckpointError, DiskFullError
from compiler.model.lazy import ITEMSIZE
from compiler.storage.files.cast import cast_bits
from compiler.storage.files.disk import sync_folder
from compiler.storage.files.writer import encode_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.storage.files.writer import Planned


class Add(Protocol):
    def __call__(self, name: str, values: NDArray[np.float32], dtype: str = "F32") -> None:
        """Append float32 `values` in that floating-point dtype of safetensors."""


@contextmanager
def written(path: Path) -> Iterator[Callable[[bytes | memoryview], None]]:
    """A function that appends to the file `path`, which has a temporary name until the context ends without an error.

    Raises DiskFullError, and removes the file then.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb", buffering=0) as file:

            def append(data: bytes | memoryview) -> None:
                view = memoryview(data).cast("B")
                while view.nbytes:
                    view = view[os.write(file.fileno(), view) :]

            yield append
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path.parent, 0) from error
        raise


@contextmanager
def tensors(path: Path) -> Iterator[Add]:
    """A function that appends a float32 tensor to the safetensors file `path`. Only that tensor is in memory.

    Raises DiskFullError.
    """
    planned: list[Planned] = []
    data = path.with_name(f"{path.name}.data")
    try:
        with written(data) as append:

            def add(name: str, values: NDArray[np.float32], dtype: str = "F32") -> None:
                planned.append((name, dtype, values.shape))
                bits = np.ascontiguousarray(values, np.float32)
                if dtype != "F32":
                    narrow = np.empty(bits.size, f"u{ITEMSIZE[dtype]}")
                    cast_bits(bits.view(np.uint32).reshape(-1), "F32", narrow, dtype)
                    append(narrow.data)
                else:
                    append(bits.data)

            yield add
        # The header comes first in the file and is known last.
        with written(path) as append, data.open("rb") as file:
            append(encode_header(planned))
            while block := file.read(1 << 20):
                append(block)
    finally:
        data.unlink(missing_ok=True)


def rows(path: Path, first: int, count: int, width: int) -> NDArray[np.float32]:
    """Read rows `first` to `first + count` of a file whose rows have `width` elements: float32 [count, width]."""
    found = np.fromfile(path, np.float32, count * width, offset=4 * first * width)
    if found.size != count * width:
        raise CheckpointError(
            f"expected {count} rows from row {first} on, {path} ends inside row {first + found.size // width}",
            hint="remove its folder and start again",
        )
    return found.reshape(count, width)


def check_room(folder: Path, nbytes: int) -> None:
    """Check that `nbytes` more fit on the disk of `folder`. Raises DiskFullError."""
    if nbytes > shutil.disk_usage(folder).free:
        raise _full(folder, nbytes)


def _full(folder: Path, needed: int) -> DiskFullError:
    free = shutil.disk_usage(folder).free
    wanted = f"needs {needed:,} bytes, " if needed else ""
    return DiskFullError(
        f"no space for activations in {folder}: {wanted}{free:,} are free on its disk",
        hint="free some space, use fewer or shorter samples, or choose another disk with LMI_COMPILE_CACHE",
    )
