from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.artifact import text
from compiler.artifact.text import SHORTEST, text_of

_RUN = re.compile(rb"[\t\n\r -~]{%d,}" % SHORTEST)


@given(st.lists(st.one_of(st.binary(max_size=12), st.text("ab /=\n", max_size=30).map(str.encode)), max_size=20))
def test_every_run_of_text_is_kept_and_little_else(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    kept = b"\xff".join(text_of(data))
    runs = _RUN.findall(data)
    assert all(run in kept for run in runs)
    assert len(kept) <= sum(len(run) + 3 for run in runs)


def test_text_beside_a_run_is_kept() -> None:
    assert list(text_of(b"\x01\x02\0PATH=/usr/bin\0LANG=en_GB\0\x03\x04")) == [b"\0PATH=/usr/bin\0LANG=en_GB\0"]
    assert list(text_of(b"\x01\x02a\0b\0")) == []
    assert list(text_of(b"")) == []


@pytest.mark.parametrize("begin", range(80, 130))
def test_a_run_over_the_edge_of_blocks_is_found_whole(monkeypatch: pytest.MonkeyPatch, begin: int) -> None:
    monkeypatch.setattr(text, "_BLOCK", 100)
    monkeypatch.setattr(text, "_OVERLAP", 20)
    data = bytearray(300)
    data[begin : begin + 18] = b"/home/jane/models/"
    assert any(b"\0/home/jane/models/\0" in kept for kept in text_of(bytes(data)))
