"""Groups of int4 as they are defined, in numpy: the tests' own arithmetic around the scales of the format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import Values, grouped
from compiler.quantization.formats.int4 import rounded

Integers = NDArray[np.int8]
Packed = NDArray[np.uint8]


def quantize(weight: Values, scales: Values) -> Integers:
    """weight [..., in], scales [..., in / group] -> integers [..., in]."""
    groups = grouped(weight, weight.shape[-1] // scales.shape[-1])
    return rounded(groups / scales[..., None]).reshape(weight.shape)


def dequantize(integers: Integers, scales: Values) -> Values:
    """The inverse of `quantize`, up to rounding."""
    groups = grouped(integers.astype(np.float32), integers.shape[-1] // scales.shape[-1])
    return (groups * scales[..., None]).reshape(integers.shape)


def unpack(packed: Packed, axis: int = -1, distance: int = 1) -> Integers:
    """The inverse of `rounding.pack`."""
    last = np.moveaxis(packed, axis, -1)
    runs = last.reshape(*last.shape[:-1], -1, distance)
    # Shifted up as unsigned and down as signed: the sign comes along.
    halves = np.stack([(runs << 4).view(np.int8) >> 4, np.ascontiguousarray(runs).view(np.int8) >> 4], -2)
    return np.ascontiguousarray(np.moveaxis(halves.reshape(*last.shape[:-1], -1), -1, axis))
