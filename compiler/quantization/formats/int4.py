"""int4 in groups: value = integer * scale of its group, integers from -8 to 7, a group being neighbours in a row.

    weight  [out, in]          scales  [out, in / group]          packed  uint8 [out, in / 2]

    byte i of a row:   bits 0-3 the integer of column 2 i,  bits 4-7 that of column 2 i + 1,  two's complement

This plain layout is what is stored and sharded; what a kernel wants instead depends on the instruction set, and is made
from it at load. Scales map the largest magnitude of a group to 7, as round-to-nearest is described by GPTQ (Frantar et
al. 2022) and AWQ (Lin et al. 2023); -8 is only met where a group was clipped (`awq.clip`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.formats.int8 import FLOOR

Values = NDArray[np.float32]
Integers = NDArray[np.int8]
Packed = NDArray[np.uint8]

GROUP = 128
LEAST, LARGEST = np.float32(-8), np.float32(7)


def group_maxima(weight: Values, group: int = GROUP) -> Values:
    """[..., in] -> [..., in / group]: the largest |W| of every group."""
    maxima: Values = np.abs(_grouped(weight, group)).max(-1)
    return maxima


def scales(maxima: Values) -> Values:
    """What an integer is worth, of the same shape."""
    return np.divide(np.maximum(maxima, FLOOR), LARGEST, dtype=np.float32)


def quantize(weight: Values, scales: Values) -> Integers:
    """weight [..., in], scales [..., in / group] -> integers [..., in]."""
    groups = _grouped(weight, weight.shape[-1] // scales.shape[-1])
    return rounded(groups / scales[..., None]).reshape(weight.shape)


def rounded(values: Values) -> Integers:
    """The nearest integers, of the same shape."""
    integers: Integers = np.clip(np.rint(values), LEAST, LARGEST).astype(np.int8)
    return integers


def dequantize(integers: Integers, scales: Values) -> Values:
    """The inverse of `quantize`, up to rounding."""
    groups = _grouped(integers.astype(np.float32), integers.shape[-1] // scales.shape[-1])
    return (groups * scales[..., None]).reshape(integers.shape)


def pack(integers: Integers, axis: int = -1, distance: int = 1) -> Packed:
    """Two integers a byte, its size along `axis` divided by two: of every run of 2 * `distance` neighbours, byte j has
    neighbour j in its lower half and neighbour j + distance in its upper.
    """
    last = np.moveaxis(integers, axis, -1)
    if last.shape[-1] % (2 * distance):
        raise ValueError(f"axis {axis} of {integers.shape} does not divide into runs of {2 * distance}")
    runs = last.reshape(*last.shape[:-1], -1, 2, distance)
    packed = runs[..., 0, :].view(np.uint8) & 15 | runs[..., 1, :].view(np.uint8) << 4
    return np.ascontiguousarray(np.moveaxis(packed.reshape(*last.shape[:-1], -1), -1, axis))


def unpack(packed: Packed, axis: int = -1, distance: int = 1) -> Integers:
    """The inverse of `pack`."""
    last = np.moveaxis(packed, axis, -1)
    runs = last.reshape(*last.shape[:-1], -1, distance)
    # Shifted up as unsigned and down as signed: the sign comes along.
    halves = np.stack([(runs << 4).view(np.int8) >> 4, np.ascontiguousarray(runs).view(np.int8) >> 4], -2)
    return np.ascontiguousarray(np.moveaxis(halves.reshape(*last.shape[:-1], -1), -1, axis))


def _grouped(values: Values, group: int) -> Values:
    if values.shape[-1] % group:
        raise ValueError(f"rows of {values.shape[-1]} do not divide into groups of {group}")
    return values.reshape(*values.shape[:-1], -1, group)
