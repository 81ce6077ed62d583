from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.store import crc
from compiler.store.crc import combined, crc_file, spelled

if TYPE_CHECKING:
    from pathlib import Path


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_crc_of_two_parts_is_that_of_both_together(first: bytes, second: bytes) -> None:
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
def test_of_a_file_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, threads: int) -> None:
    monkeypatch.setattr(crc, "PIECE", 100)
    monkeypatch.setattr(crc, "_READ", 37)
    data = bytes(i * 7 % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    assert crc_file(tmp_path / "file", threads) == f"crc32:{zlib.crc32(data):08x}"


def test_the_check_value_of_the_catalogue() -> None:
    """CRC-32/ISO-HDLC of "123456789" is CBF43926 (catalogue of parametrised CRC algorithms)."""
    assert spelled(combined(zlib.crc32(b"12345"), zlib.crc32(b"6789"), 4)) == "crc32:cbf43926"
