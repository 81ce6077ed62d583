"""Symmetric int6, a number a byte: integers from -31 to 31, with one scale a row. A format that this project lacks."""

from __future__ import annotations

import numpy as np

from compiler.quantization.format import Format, Product, Units, Values, as_float32, inverse

LARGEST = np.float32(31)


def steps(maxima: Values) -> Values:
    return np.divide(LARGEST, np.maximum(maxima, np.float32(1e-8)), dtype=np.float32)


def rounded(values: Values) -> Units:
    return np.clip(np.rint(values), -LARGEST, LARGEST).astype(np.int8)


FORMAT = Format(
    name="int6",
    bits=6,
    dtype="I8",
    torch_dtype="int8",
    largest=LARGEST,
    steps=steps,
    scales=lambda maxima: inverse(steps(maxima)),
    round=rounded,
    decode=as_float32,
    products=(Product("int6_weight_only", "float"),),
)
