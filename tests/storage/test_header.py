from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compiler.storage.checkpoints.header import HeaderError, TensorEntry, parse_header, read_header
from tests.storage import samples

A = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}


def problems(header: object, data: int = 20, padding: bytes = b"") -> list[str]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += padding
    with pytest.raises(HeaderError) as caught:
        parse_header(text, 8 + len(text) + data)
    return caught.value.problems


def test_reads_what_the_reference_implementation_writes(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(5, dtype=np.float16),
        "empty": np.zeros((0, 4), dtype=np.int8),
        "scalar": np.array(7, dtype=np.int64),
    }
    save_file(arrays, tmp_path / "f")
    header, content = read_header(tmp_path / "f"), (tmp_path / "f").read_bytes()
    assert set(header) == set(arrays)
    for name, entry in header.items():
        assert entry.shape == arrays[name].shape
        assert content[entry.offset : entry.offset + entry.nbytes] == arrays[name].tobytes()


def test_entries_in_the_order_of_their_data_whatever_the_header_says() -> None:
    text = json.dumps({"b": B, "__metadata__": {"format": "pt"}, "a": A}).encode() + b"   "
    start = 8 + len(text)
    assert list(parse_header(text, start + 20).items()) == [
        ("a", TensorEntry("BF16", (2, 3), start, 12)),
        ("b", TensorEntry("F32", (2,), start + 12, 8)),
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"not json", "not a JSON object"),
        (b"\xff{}", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"[1]", "but list"),
        (b'{"a": 1, "a": 2}', "`a` appears twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F16"}}', "`dtype` appears twice"),
        ({"__metadata__": {"a": 1}, "a": A, "b": B}, "map of strings"),
        ({"a": {**A, "extra": 1}, "b": B}, "needs dtype, shape and data_offsets"),
        ({"a": 5, "b": B}, "needs dtype, shape and data_offsets"),
        ({"a": {**A, "dtype": "F12"}, "b": B}, "dtype 'F12'"),
        ({"a": {**A, "dtype": ["F32"]}, "b": B}, "dtype"),
        ({"a": {**A, "shape": [2, -3]}, "b": B}, "list of sizes"),
        ({"a": {**A, "shape": [True, 6]}, "b": B}, "list of sizes"),
        ({"a": {**A, "shape": [2, 3.0]}, "b": B}, "list of sizes"),
        ({"a": {**A, "data_offsets": [0]}, "b": B}, "[begin, end]"),
        ({"a": {**A, "data_offsets": [0, 14]}, "b": B}, "takes 12"),
        ({"a": {**A, "data_offsets": [12, 0]}, "b": B}, "takes 12"),
        ({"a": {**A, "shape": [2, 3, 1 << 62]}, "b": B}, "takes"),
        ({"a": A, "b": {**B, "data_offsets": [8, 16]}}, "overlaps"),
        ({"a": A, "b": {**B, "data_offsets": [14, 22]}}, "hole"),
        ({"a": {**A, "data_offsets": [8, 20]}}, "hole"),
        ({"a": A}, "8 bytes follow"),
        ({"a": A, "b": B, "c": {"dtype": "U8", "shape": [5], "data_offsets": [20, 25]}}, "truncated"),
    ],
)
def test_headers_that_lie(header: object, expected: str) -> None:
    assert expected in problems(header)[0]


def test_all_problems_at_once() -> None:
    found = problems({"a": {**A, "dtype": "F12"}, "b": {**B, "shape": [3]}})
    assert [line.split()[0] for line in found] == ["`a`", "`b`"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "truncated"),
        (b"\0" * 7, "truncated"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "limit is 100000000"),
        ((50).to_bytes(8, "little") + b"{}", "truncated"),
    ],
)
def test_files_too_short_for_their_header(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(HeaderError, match=expected):
        read_header(tmp_path / "f")


def test_a_truncated_file(tmp_path: Path) -> None:
    samples.safetensors(tmp_path / "f", {"a": ("F32", (100,))})
    content = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(content[:-1])
    with pytest.raises(HeaderError, match="truncated: the tensors end at byte"):
        read_header(tmp_path / "f")
