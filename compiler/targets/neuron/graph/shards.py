"""Tensors of shard files as numpy arrays over the files' own bytes, bfloat16 too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from compiler.errors import ArtifactError
from compiler.storage.checkpoints.header import HeaderError, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

NUMPY: dict[str, np.dtype[Any]] = {
    "I32": np.dtype(np.int32), "I8": np.dtype(np.int8), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
"""numpy's dtypes by the names of safetensors."""


def read_shards(files: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Each of the tensors `names` with its array of every rank. Raises ArtifactError for a missing tensor."""
    try:
        headers = [read_header(Path(file)) for file in files]
    except (HeaderError, OSError) as error:
        raise ArtifactError(f"the shards cannot be read: {error}", hint="build the artifact again") from None
    maps = [np.memmap(file, np.uint8, "r") for file in files]
    for name in names:
        found = []
        for file, header, data in zip(files, headers, maps, strict=True):
            if name not in header:
                raise ArtifactError(f"{file}: no tensor `{name}`, which the graphs read", hint="build it again")
            entry = header[name]
            view = data[entry.offset : entry.offset + entry.nbytes].copy().view(NUMPY[entry.dtype])
            found.append(view.reshape(entry.shape))
        yield name, found
