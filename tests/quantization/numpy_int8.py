"""Layers in int8 as they are defined, in numpy: the tests' own arithmetic around the steps of the format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import Values
from compiler.quantization.formats.int8 import LARGEST, scales, steps

Integers = NDArray[np.int8]


def quantize(values: Values, steps: Values) -> Integers:
    """Integers of `values`; `steps` broadcasts against them ([out, 1] for the rows of a weight [out, in])."""
    integers: Integers = np.clip(np.rint(values * steps), -LARGEST, LARGEST).astype(np.int8)
    return integers


def dequantize(integers: Integers, scales: Values) -> Values:
    """`scales` broadcasts as `steps` does in `quantize`."""
    return integers.astype(np.float32) * scales


def row_maxima(weight: Values) -> Values:
    """[..., in] -> [...]: the largest |W| of every row."""
    maxima: Values = np.abs(weight).max(-1)
    return maxima


def quantize_tokens(x: Values) -> tuple[Integers, Values]:
    """x [tokens, in] -> integers [tokens, in] and the worth of one, [tokens, 1]."""
    maxima = np.abs(x).max(-1, keepdims=True)
    return quantize(x, steps(maxima)), scales(maxima)
