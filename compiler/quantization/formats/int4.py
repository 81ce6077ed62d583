"""int4 in groups of neighbors in a row: value = integer * scale of its group, integers from -8 to 7.

    weight  [out, in]          scales  [out, in / group]          packed  uint8 [out, in / 2]

    byte i of a row:   bits 0-3 the integer of column 2 i,  bits 4-7 that of column 2 i + 1,  two's complement

This plain layout is stored and sharded; kernels reorder it at load, for their instruction set. Scales map the largest
magnitude of a group to 7, the round-to-nearest of GPTQ (Frantar et al. 2022) and AWQ (Lin et al. 2023); -8 occurs only
where rounding has feedback, with scales of its own (`feedback.py`), and in checkpoints of others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import Packing
from compiler.quantization.format import Format, Product, Values, as_float32, inverse

LEAST, LARGEST = np.float32(-8), np.float32(7)
GROUPS = {128: "grouped", 64: "grouped_64", 32: "grouped_32", 16: "grouped_16"}
"""Products by the size of their groups, widest first."""
FLOOR = np.float32(1e-8)
"""Least maximum: a group of zeros gets a small but finite scale."""


def scales(maxima: Values) -> Values:
    """Scales, of the same shape."""
    return np.divide(np.maximum(maxima, FLOOR), LARGEST, dtype=np.float32)


def rounded(values: Values) -> NDArray[np.int8]:
    """Nearest integers, of the same shape."""
    integers: NDArray[np.int8] = np.clip(np.rint(values), LEAST, LARGEST).astype(np.int8)
    return integers


FORMAT = Format(
    name="int4",
    bits=4,
    dtype="I8",
    torch_dtype="int8",
    largest=LARGEST,
    steps=lambda maxima: inverse(scales(maxima)),
    scales=scales,
    round=rounded,
    decode=as_float32,
    products=tuple(Product(name, "float", size) for size, name in GROUPS.items()),
    group=128,
    packing=Packing(-1, 1),
)
