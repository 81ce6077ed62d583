"""Reader and checks of the header of a safetensors file. Needs neither safetensors nor torch.

    0        8 bytes   n, the length of the header, unsigned, little-endian
    8        n bytes   JSON object: {"__metadata__": {str: str},
                       NAME: {"dtype": D, "shape": [...], "data_offsets": [b, e]}}; spaces may follow it
    8 + n    to end    the data; `b` and `e` count from here; no holes, no overlaps, nothing behind the last tensor

Source: the format section of the safetensors README (github.com/huggingface/safetensors), which also sets the
limit on n.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from compiler.model.lazy import ITEMSIZE
from compiler.storage.checkpoints.lfs import POINTER_HINT, is_pointer

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 100_000_000
"""Longest header that the format allows, in bytes."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a header: dtype (safetensors spelling), shape, absolute byte offset in the file, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class HeaderError(ValueError):
    """Problems of one header, one line each. checkpoint.py adds the file's name."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def header_length(prefix: bytes, file_size: int) -> int:
    """Length n of the header, from the file's first 8 bytes. Raises HeaderError if the file cannot hold it."""
    if file_size < 8 or len(prefix) < 8:
        raise HeaderError([f"truncated: expected an 8-byte length, found a file of {file_size} bytes"])
    if is_pointer(prefix):
        raise HeaderError([f"a git-lfs pointer, not the file itself: {POINTER_HINT}"])
    length = int.from_bytes(prefix[:8], "little")
    if length > LIMIT:
        raise HeaderError([f"not safetensors: claims a header of {length} bytes, the limit is {LIMIT}"])
    if 8 + length > file_size:
        raise HeaderError([f"truncated: the header ends at byte {8 + length}, the file at {file_size}"])
    return length


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Entries of all tensors of the file, in the order of their data. Raises HeaderError (all problems), OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = header_length(file.read(8), size)
        return parse_header(file.read(length), size)


def parse_header(header: bytes, file_size: int) -> dict[str, TensorEntry]:
    """Parse a header (without its 8-byte length) and check it against the size of its file.

    Raises HeaderError with all problems.
    """
    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise HeaderError([f"the header is not a JSON object with unique names: {error}"]) from None
    if not isinstance(parsed, dict):
        raise HeaderError([f"the header is not a JSON object but {type(parsed).__name__}"])
    problems: list[str] = []
    start = 8 + len(header)
    entries: dict[str, TensorEntry] = {}
    for name, value in parsed.items():
        if name == "__metadata__":
            if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
                problems.append("`__metadata__` is not a map of strings")
            continue
        entry = _entry(name, value, start, problems)
        if entry is not None:
            entries[name] = entry
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    if not problems:
        problems = _coverage(ordered, start, file_size)
    if problems:
        raise HeaderError(problems)
    return ordered


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # set.add gives None: falsy
        raise ValueError(f"`{twice}` appears twice")
    return unique


def _counts(value: object) -> tuple[int, ...] | None:
    """The value as a tuple if it is a list of non-negative integers (true and false are not integers), else None."""
    if isinstance(value, list) and all(type(n) is int and n >= 0 for n in value):
        return tuple(value)
    return None


def _entry(name: str, value: object, start: int, problems: list[str]) -> TensorEntry | None:
    fields = value if isinstance(value, dict) else {}
    if set(fields) != {"dtype", "shape", "data_offsets"}:
        problems.append(f"`{name}` needs dtype, shape and data_offsets, found {sorted(fields)}")
        return None
    dtype, shape, offsets = fields["dtype"], _counts(fields["shape"]), _counts(fields["data_offsets"])
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        problems.append(f"`{name}` has dtype {dtype!r}, known are {', '.join(ITEMSIZE)}")
    elif shape is None:
        problems.append(f"`{name}` has shape {fields['shape']!r}, expected a list of sizes")
    elif offsets is None or len(offsets) != 2:
        problems.append(f"`{name}` has data_offsets {fields['data_offsets']!r}, expected [begin, end]")
    elif offsets[1] - offsets[0] != prod(shape) * ITEMSIZE[dtype]:
        problems.append(
            f"`{name}` lies at [{offsets[0]}, {offsets[1]}), {offsets[1] - offsets[0]} bytes, "
            f"but {dtype} {list(shape)} takes {prod(shape) * ITEMSIZE[dtype]}"
        )
    else:
        return TensorEntry(dtype, shape, start + offsets[0], offsets[1] - offsets[0])
    return None


def _coverage(entries: dict[str, TensorEntry], start: int, file_size: int) -> list[str]:
    """Problems with the places of tensors: holes, overlaps, a wrong end. `entries` in the order of their data."""
    problems = []
    end = start
    for name, entry in entries.items():
        if entry.offset != end:
            kind = "overlaps the tensor before it" if entry.offset < end else "leaves a hole before it"
            problems.append(f"`{name}` begins at byte {entry.offset}, expected {end}: {kind}")
        end = max(end, entry.offset + entry.nbytes)
    if end > file_size:
        problems.append(f"truncated: the tensors end at byte {end}, the file at {file_size}")
    elif end < file_size:
        problems.append(f"{file_size - end} bytes follow the last tensor, which ends at byte {end}")
    return problems
