"""Casts between floating-point dtypes on raw bits, in numpy (which has no bfloat16 of its own).

    F64   1 sign, 11 exponent, 52 fraction bits
    F32   1 sign, 8 exponent, 23 fraction bits
    BF16  1 sign, 8 exponent,  7 fraction bits: the upper half of an F32
    F16   1 sign, 5 exponent, 10 fraction bits

Rounding is to nearest, ties to even, as in torch, which also takes F64 to the narrow ones through F32; values too large
become infinite; a NaN stays a NaN.
"""

from __future__ import annotations

import numpy as np

CASTABLE = ("F64", "F32", "F16", "BF16")

_CHUNK = 1 << 16
"""Elements cast at a time: the intermediate arrays stay in the CPU's second-level cache."""


def cast_bits(source: np.ndarray, source_dtype: str, out: np.ndarray, dtype: str) -> None:
    """Cast flat unsigned integers `source` (bits of `source_dtype`) into flat `out` (bits of `dtype`), same length.

    Both dtypes are in CASTABLE.
    """
    for begin in range(0, source.size, _CHUNK):
        part = slice(begin, begin + _CHUNK)
        out[part] = _narrow(_widen(source[part], source_dtype), dtype)


def _widen(bits: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    if dtype == "F64":
        with np.errstate(all="ignore"):
            return bits.view(np.float64).astype(np.float32)
    return bits.view(np.float32)


def _narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    bits = values.view(np.uint32)
    if dtype == "F32":
        return bits
    if dtype == "F64":
        with np.errstate(all="ignore"):
            return values.astype(np.float64).view(np.uint64)
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore"):
            return values.astype(np.float16).view(np.uint16)
    # Adding 0x7FFF, and 1 more if the kept part is odd, carries into it exactly when nearest-even rounds up.
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    # The sum can carry a NaN into infinity or round: keep its upper half and set the quiet bit instead.
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
