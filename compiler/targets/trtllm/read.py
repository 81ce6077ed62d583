"""Reader of rank files for the judge: rows of a tensor as float32, read on access."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import ArtifactError
from compiler.targets.trtllm.judge_math import e4m3_values

_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "F8_E4M3": "u1"}
_E4M3 = e4m3_values()


@dataclass(frozen=True)
class StoredTensor:
    """Tensor in a file. `x[i]` and `x[a:b]` read along the first axis; nothing is cached.

    Rows are read, not mapped: mapped pages would count as this process's memory.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def __getitem__(self, rows: int | slice) -> Any:
        """Part of the tensor as float32 for a slice; for an index one entry, a `StoredTensor` if it is a matrix."""
        width = prod(self.shape[1:]) * np.dtype(_STORED[self.dtype]).itemsize
        if isinstance(rows, int):
            inner = StoredTensor(self.path, self.offset + rows * width, self.dtype, self.shape[1:])
            return inner if len(inner.shape) > 1 else inner[:]
        first, end, _ = rows.indices(self.shape[0])
        shape = (max(end - first, 0), *self.shape[1:])
        kind = np.dtype(_STORED[self.dtype])
        stored = np.fromfile(self.path, kind, prod(shape), offset=self.offset + first * width)
        match self.dtype:
            case "BF16":  # the upper half of a float32
                values = (stored.astype(np.uint32) << 16).view(np.float32)
            case "F8_E4M3":
                values = _E4M3[stored]
            case _:
                values = stored.astype(np.float32, copy=False)
        return values.reshape(shape)

    def __len__(self) -> int:
        return self.shape[0]


class RankTensors(Mapping[str, StoredTensor]):
    """Tensors of a safetensors file by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(length))
        self._header.pop("__metadata__", None)
        self._data = 8 + length

    def __getitem__(self, name: str) -> StoredTensor:
        entry = self._header[name]
        if entry["dtype"] not in _STORED:
            raise ArtifactError(
                f"{self._path}: the judge reads {', '.join(_STORED)}; `{name}` is {entry['dtype']}",
                hint="build the checkpoint again",
            )
        return StoredTensor(self._path, self._data + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)
