"""Values that are not finite, or will not be after a cast: found and counted on raw bits, without float arithmetic.

Without its sign bit, a float's bits grow with its magnitude; NaN and infinities are the largest. So one comparison with
the bits of the smallest value that the cast makes infinite finds all three, in positive and negative numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import ITEMSIZE
from compiler.storage.files.cast import CASTABLE, cast_bits

_INFINITE = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "BF16": 0xFF << 7, "F16": 0x1F << 10, "F8_E5M2": 0x1F << 2,
             "F8_E4M3": 0x7F}  # fmt: skip
"""Bits of infinity; NaN is above it. F8_E4M3 has no infinity, and one NaN."""

FLOATS = tuple(_INFINITE)

_CHUNK = 1 << 20
"""Elements looked at in one go: few calls, and they stay in the CPU's caches for the second look."""


@dataclass(frozen=True)
class LostValues:
    """Values of a tensor that its rank files do not hold as finite numbers: NaN, infinities, and finite ones `beyond`
    the range of the dtype; `largest`: greatest magnitude among those.
    """

    nan: int = 0
    infinite: int = 0
    beyond: int = 0
    largest: float = 0.0

    def __add__(self, other: LostValues) -> LostValues:
        return LostValues(
            self.nan + other.nan,
            self.infinite + other.infinite,
            self.beyond + other.beyond,
            max(self.largest, other.largest),
        )

    def text(self, dtype: str) -> str:
        """`2 NaN, 1 infinite, 3 values beyond float16 (up to 1e+06)`; `dtype`: by torch's name."""
        values = "value" if self.beyond == 1 else "values"
        parts = [
            (self.nan, f"{self.nan} NaN"),
            (self.infinite, f"{self.infinite} infinite"),
            (self.beyond, f"{self.beyond} {values} beyond {dtype} (up to {self.largest:g})"),
        ]
        return ", ".join(text for count, text in parts if count)


@cache
def first_lost(source_dtype: str, dtype: str) -> int:
    """Bits, without the sign, of the smallest value of `source_dtype` that is not finite as `dtype`."""
    low, high = 0, _INFINITE[source_dtype]
    if source_dtype == dtype or not {source_dtype, dtype} <= set(CASTABLE):
        return high
    bits, out = np.zeros(1, f"u{ITEMSIZE[source_dtype]}"), np.zeros(1, f"u{ITEMSIZE[dtype]}")
    while low < high:
        middle = (low + high) // 2
        bits[0] = middle
        cast_bits(bits, source_dtype, out, dtype)
        low, high = (low, middle) if int(out[0]) >= _INFINITE[dtype] else (middle + 1, high)
    return low


def has_lost(bits: NDArray[Any], source_dtype: str, dtype: str) -> bool:
    """Whether flat unsigned integers `bits` of `source_dtype` have a value that is not finite as `dtype`."""
    limit, sign = first_lost(source_dtype, dtype), 1 << 8 * bits.itemsize - 1
    signed = bits.view(f"i{bits.itemsize}")
    for begin in range(0, bits.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        # As signed integers the positive values are above the negative ones, as unsigned ones below.
        if signed[part].max() >= limit or bits[part].max() >= limit | sign:
            return True
    return False


def count_lost(bits: NDArray[Any], source_dtype: str, dtype: str) -> LostValues:
    """Count the values of `bits` that are not finite as `dtype`; see `has_lost`."""
    limit, infinite = first_lost(source_dtype, dtype), _INFINITE[source_dtype]
    magnitude = bits & bits.dtype.type((1 << 8 * bits.itemsize - 1) - 1)
    lost = magnitude[magnitude >= limit]
    finite = lost[lost < infinite]
    unbounded = 0 if source_dtype == "F8_E4M3" else int((lost == infinite).sum())
    return LostValues(
        nan=len(lost) - len(finite) - unbounded,
        infinite=unbounded,
        beyond=len(finite),
        largest=_value(int(finite.max()), source_dtype) if len(finite) else 0.0,
    )


def _value(bits: int, dtype: str) -> float:
    out = np.empty(1, np.uint64)
    cast_bits(np.array([bits], f"u{ITEMSIZE[dtype]}"), dtype, out, "F64")
    return float(out.view(np.float64)[0])
