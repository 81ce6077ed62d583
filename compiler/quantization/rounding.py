"""Round a linear layer's weight and pack its units, block by block (`compiler.model.lazy.Quantize`, `Packing`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import Packing
from compiler.quantization.format import Units, Values, grouped
from compiler.quantization.formats import load


def quantize(values: Values, steps: Values, columns: Values | None, form: str) -> Units:
    """Round values * columns to units of the format named `form`, in the shape of `values`.

    values [..., rows, in], steps [..., rows] or [..., rows, groups], columns [..., in] or None: 1.
    """
    if columns is not None:
        values = values * columns[..., None, :]
    groups = steps.shape[-1] if steps.ndim == values.ndim else 1
    rows = grouped(values, values.shape[-1] // groups)
    return load(form).round(rows * steps.reshape(*rows.shape[:-1], 1)).reshape(values.shape)


def pack(integers: NDArray[np.int8], packing: Packing) -> NDArray[np.uint8]:
    """Pack integers: bytes of the elements of the file, of which an axis may have several.

    Raises ValueError where the axis does not divide into runs.
    """
    packing.shape(integers.shape)
    if packing.offset:
        integers = (integers.view(np.uint8) + np.uint8(packing.offset)).view(np.int8)
    if packing.bits == 8:
        return np.ascontiguousarray(integers).view(np.uint8)
    last = np.moveaxis(integers, packing.axis, -1)
    runs = last.reshape(*last.shape[:-1], -1, 2, packing.distance)
    packed = runs[..., 0, :].view(np.uint8) & 15 | runs[..., 1, :].view(np.uint8) << 4
    return np.ascontiguousarray(np.moveaxis(packed.reshape(*last.shape[:-1], -1), -1, packing.axis))
