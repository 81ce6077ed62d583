"""Rows of a table in a file, in the formats of data sets.

.jsonl .ndjson .jsonl.gz     one object per line
.json .json.gz               the same, or one array of objects
.csv .tsv                    names of the columns in the first line
.parquet                     through arro3 (the parquet reader of arrow-rs), in batches
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from typing import IO, TYPE_CHECKING, Any, cast

from compiler.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    Row = tuple[str, Any]  # place ("line 3 of `a.jsonl`") and value

_LARGEST = 256 << 20
"""Limit of an array of JSON, which is parsed as a whole, in bytes."""
_FIELD = 1 << 30
"""Limit of a field of CSV, in characters."""


def rows(file: Path, name: str, wanted: Collection[str]) -> Iterator[Row]:
    """Read the rows of a file, as maps from column to value; columns that are not `wanted` may be None.

    `name`: the file's name in errors. Only a batch of rows is in memory, except for an array of JSON.
    Raises CalibrationError, OSError.
    """
    try:
        yield from _READERS[_suffix(file)](file, name, wanted)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CalibrationError(f"`{name}` cannot be unpacked: {error}", hint="download it again") from None


def is_table(file: Path | str) -> bool:
    """Whether `rows` reads a file, by its name."""
    return _suffix(file) != ""


def is_compressed(file: Path) -> bool:
    """Whether the rows of a file may be larger than the file, by its name."""
    return _suffix(file) in (".parquet", ".jsonl.gz", ".json.gz")


def _suffix(file: Path | str) -> str:
    return next((suffix for suffix in _READERS if str(file).lower().endswith(suffix)), "")


def _lines(file: Path, name: str, _: Collection[str]) -> Iterator[Row]:
    with _opened(file) as lines:
        yield from _parsed(lines, name)


def _json(file: Path, name: str, _: Collection[str]) -> Iterator[Row]:
    with _opened(file) as text:
        while (start := text.read(1)).isspace():
            pass
        text.seek(0)
        if start != b"[":
            yield from _parsed(text, name)
            return
        data = text.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise CalibrationError(
            f"expected an array of at most {_LARGEST >> 20} MiB, `{name}` is larger", hint=_ONE_OBJECT
        )
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"`{name}` is not JSON: {error}", hint=_ONE_OBJECT) from None
    for number, row in enumerate(found, 1):
        yield f"entry {number} of `{name}`", row


_ONE_OBJECT = 'pass a .jsonl file: one object a line, {"text": "..."} or {"input_ids": [1, 2, 3]}'


def _parsed(lines: Iterable[bytes], name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        where = f"line {number} of `{name}`"
        if not line.strip():
            continue
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{where} is not JSON: {error}", hint=_ONE_OBJECT) from None


def _separated(file: Path, name: str, _: Collection[str]) -> Iterator[Row]:
    csv.field_size_limit(_FIELD)
    separator = "\t" if _suffix(file) == ".tsv" else ","
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=separator, strict=True)
            for row in reader:
                yield f"line {reader.line_num} of `{name}`", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"`{name}` is not a table in UTF-8: {error}", hint="convert it, or pass another file"
        ) from None


def _parquet(file: Path, name: str, wanted: Collection[str]) -> Iterator[Row]:
    import arro3.io

    broken = CalibrationError(f"`{name}` is not a whole parquet file", hint="download it again, or pass another file")
    with file.open("rb") as data:
        # The reader complains on standard error about a file without a footer.
        first, _, last = data.read(4), data.seek(max(file.stat().st_size - 4, 0)), data.read(4)
    if (first, last) != (b"PAR1", b"PAR1"):
        raise broken
    number = 0
    try:
        for batch in arro3.io.read_parquet(file):
            columns = {one: batch[one].to_pylist() for one in batch.schema.names if one in wanted}
            others = dict.fromkeys(batch.schema.names)
            for i in range(batch.num_rows):
                number += 1
                yield f"row {number} of `{name}`", others | {one: values[i] for one, values in columns.items()}
    except (GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        # An unexpected state is a panic of the reader, which is no Exception.
        raise broken from error


def _opened(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file)) if file.suffix.lower() == ".gz" else file.open("rb")


_READERS: Mapping[str, Callable[[Path, str, Collection[str]], Iterator[Row]]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".jsonl.gz": _lines,
    ".json": _json,
    ".json.gz": _json,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)
