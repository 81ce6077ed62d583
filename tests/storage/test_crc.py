from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest

from compiler.storage.files import crc
from compiler.storage.files.crc import crc_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
def test_a_file_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, threads: int) -> None:
    monkeypatch.setattr(crc, "PIECE", 100)
    monkeypatch.setattr(crc, "_READ", 37)
    data = bytes(i * 7 % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    assert crc_file(tmp_path / "file", threads) == f"crc32:{zlib.crc32(data):08x}"


def test_the_check_value_of_the_catalogue(tmp_path: Path) -> None:
    """CRC-32/ISO-HDLC of "123456789" is CBF43926 (catalogue of parametrized CRC algorithms)."""
    (tmp_path / "file").write_bytes(b"123456789")
    assert crc_file(tmp_path / "file") == "crc32:cbf43926"


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError, match="became shorter"):
        crc._crc_of(file.fileno(), 0, 4)
