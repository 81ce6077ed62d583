"""A linear layer's weight on its way to few bits, block by block (`compiler.model.lazy.Quantise`, `Packing`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import Format, Packing
from compiler.quantization.formats import fp8, int4

Values = NDArray[np.float32]
Units = NDArray[Any]
"""int8, or the bits of float8 as uint8."""


def _int8(values: Values) -> Units:
    """-128 too: scales of other projects' checkpoints may map a weight there, ours never do."""
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


_ROUND: Mapping[Format, Callable[[Values], Units]] = {"int8": _int8, "int4": int4.rounded, "fp8": fp8.encode}


def quantise(values: Values, steps: Values, columns: Values | None, form: Format) -> Units:
    """values [..., rows, in], steps [..., rows] or [..., rows, groups], columns [..., in] -> units of `form`, of the
    shape of `values`.
    """
    if columns is not None:
        values = values * columns[..., None, :]
    grouped = values.reshape(*values.shape[:-1], -1, values.shape[-1] // _groups(values, steps))
    return _ROUND[form](grouped * steps.reshape(*grouped.shape[:-1], 1)).reshape(values.shape)


def pack(integers: NDArray[np.int8], packing: Packing) -> NDArray[np.uint8]:
    """Integers of four bits to bytes of two; of whole runs."""
    return int4.pack(integers, packing.axis, packing.distance)


def _groups(values: Values, steps: Values) -> int:
    return steps.shape[-1] if steps.ndim == values.ndim else 1
