"""A rank file as the judge reads it: one tensor at a time, as float32."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.errors import ArtifactError

_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class RankTensors(Mapping[str, NDArray[np.float32]]):
    """The tensors of a safetensors file. Nothing is kept: what is indexed is read again each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(length))
        self._header.pop("__metadata__", None)
        self._data = 8 + length

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        entry = self._header[name]
        if entry["dtype"] not in _STORED:
            raise ArtifactError(f"{self._path}: `{name}` is {entry['dtype']}; the judge reads {', '.join(_STORED)}")
        begin, end = entry["data_offsets"]
        kind = np.dtype(_STORED[entry["dtype"]])
        stored = np.fromfile(self._path, kind, (end - begin) // kind.itemsize, offset=self._data + begin)
        # A bfloat16 is the upper half of a float32.
        values = (stored.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else stored
        return values.astype(np.float32).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)
