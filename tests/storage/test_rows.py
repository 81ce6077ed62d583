from __future__ import annotations

import gzip
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arro3.core
import arro3.io
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import CalibrationError
from compiler.storage.datasets.rows import is_compressed, is_table, rows

ROWS: list[dict[str, Any]] = [
    {"text": "plain", "id": "1"},
    {"text": 'with, commas\nand "quotes"', "id": "2"},
    {"text": "Grüße, 世界", "id": "3"},
]


def _json_lines(file: Path) -> None:
    file.write_text("\n\n".join(map(json.dumps, ROWS)))


def _array(file: Path) -> None:
    file.write_text("\n " + json.dumps(ROWS, indent=2, ensure_ascii=False))


def _zipped(file: Path) -> None:
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))


def _separated(separator: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        quoted = [[f'"{row[name].replace(chr(34), chr(34) * 2)}"' for name in ("text", "id")] for row in ROWS]
        file.write_text("\ufeff" + "\r\n".join(map(separator.join, [["text", "id"], *quoted])))

    return write


def _parquet(file: Path, found: list[dict[str, Any]] = ROWS) -> None:
    columns: dict[str, Any] = {
        name: arro3.core.Array([row[name] for row in found], arro3.core.DataType.string()) for name in found[0]
    }
    arro3.io.write_parquet(arro3.core.Table.from_pydict(columns), file, compression="zstd(3)", max_row_group_size=2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", _json_lines),
        ("a.ndjson", _json_lines),
        ("a.json", _json_lines),  # as many of the hub are
        ("a.json", _array),
        ("a.jsonl.gz", _zipped),
        ("a.json.gz", _zipped),
        ("A.CSV", _separated(",")),
        ("a.tsv", _separated("\t")),
        ("a.parquet", _parquet),
    ],
)
def test_every_form_has_the_same_rows(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / name)
    found = list(rows(tmp_path / name, "it", ("text", "id")))
    assert [row for _, row in found] == ROWS
    assert all(" of `it`" in where for where, _ in found)
    assert is_table(tmp_path / name)
    assert is_compressed(tmp_path / name) == name.endswith((".gz", ".parquet"))


def test_columns_that_nobody_wants_are_named_without_values(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet")
    assert next(rows(tmp_path / "a.parquet", "it", ("text",))) == ("row 1 of `it`", {"text": "plain", "id": None})


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\nthis is no JSON")
    found = rows(file, "it", ("text",))
    assert next(found)[1] == ROWS[0]
    with pytest.raises(CalibrationError, match="line 2 of `it` is not JSON"):
        next(found)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[1, 2", "is not JSON"),
        ("a.json", b"{\n  1", "line 1 of `it` is not JSON"),
        ("a.jsonl.gz", b"plain", "cannot be unpacked"),
        ("a.jsonl.gz", gzip.compress(b"[1]\n" * 1000, mtime=0)[:-20], "cannot be unpacked"),
        ("a.csv", b"text,id\n\xff\xfe,1\n", "not a table in UTF-8"),
        ("a.csv", b'text,id\n"open,1\n', "not a table"),
        ("a.parquet", b"", "not a whole parquet file"),
        ("a.parquet", b"PAR1 and no more", "not a whole parquet file"),
        ("a.parquet", b"PAR1" + b"\0" * 64 + b"PAR1", "not a whole parquet file"),
    ],
)
def test_a_damaged_file_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=said) as caught:
        list(rows(tmp_path / name, "it", ("text",)))
    assert caught.value.hint


def test_a_parquet_file_that_is_cut_or_changed_is_refused_or_read(tmp_path: Path) -> None:
    """Either outcome is right, a crash of the reader is not."""
    file = tmp_path / "a.parquet"
    _parquet(file, [{"text": string.ascii_letters * i, "id": str(i)} for i in range(1, 40)])
    whole = file.read_bytes()
    refused = 0
    for at in range(4, len(whole) - 4, max(len(whole) // 60, 1)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            assert len(list(rows(file, "it", ("text",)))) <= 39
        except CalibrationError:
            refused += 1
    assert refused


@given(st.lists(st.fixed_dictionaries({"text": st.text(st.characters(codec="utf-8"))}), min_size=1, max_size=20))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, found: list[dict[str, str]]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.parquet"
    _parquet(file, found)
    assert [row for _, row in rows(file, "it", ("text",))] == found
