"""Direct writes: the same bytes on every kind of disk."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from compiler.storage.files.disk import PAGE, open_direct, page_aligned, write_direct


def filled(nbytes: int) -> memoryview:
    view = page_aligned(nbytes)
    view[:] = os.urandom(nbytes)
    return view


def write(path: Path, direct: int | None, view: memoryview, offset: int) -> bytes:
    """Write and read back the file, from `offset` on."""
    file = os.open(path, os.O_RDWR)
    try:
        write_direct(direct, file, view, offset)
    finally:
        os.close(file)
    return path.read_bytes()[offset:]


@pytest.mark.parametrize("nbytes", [0, 1, PAGE - 1, PAGE, 3 * PAGE + 5])
@pytest.mark.parametrize("offset", [0, 2 * PAGE])
def test_pages_go_direct_and_what_is_left_does_not(tmp_path: Path, nbytes: int, offset: int) -> None:
    path, view = tmp_path / "f", filled(max(nbytes, 1))[:nbytes]
    path.touch()
    direct = open_direct(path)
    assert write(path, direct, view, offset) == view
    assert write(path, None, view, offset) == view
    if direct is not None:
        os.close(direct)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSPC])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The page cache is a fallback only for EINVAL, a disk that requires other sizes."""
    path, view, pwrite = tmp_path / "f", filled(2 * PAGE + 1), os.pwrite
    path.touch()
    direct = os.open(path, os.O_WRONLY)

    def refusing(file: int, data: memoryview, at: int) -> int:
        if file == direct:
            raise OSError(code, os.strerror(code))
        return pwrite(file, data, at)

    monkeypatch.setattr(os, "pwrite", refusing)
    if code == errno.EINVAL:
        assert write(path, direct, view, 0) == view
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            write(path, direct, view, 0)
    os.close(direct)


def test_memory_begins_where_a_page_does() -> None:
    view = page_aligned(PAGE + 1)
    assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % PAGE == 0
    assert len(view) == PAGE + 1
