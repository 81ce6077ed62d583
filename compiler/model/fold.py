"""Steps that a toolchain expects done to the weights, though the model does them on the way.

    plus_one    w + 1                          Gemma's norms multiply by 1 + w
    l2_rows     w / |w|, row by row            Baichuan 2 divides every row of its head by its length

A fold looks at one row (the last axis) at a time, so a tensor can be folded in blocks of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import Fold

Values = NDArray[np.float32]


def fold(step: Fold, values: Values, rounded: Callable[[Values], Values]) -> Values:
    """values [..., n] float32 -> the same shape. `rounded` rounds to what the checkpoint's own dtype can hold.

    l2_rows computes in that dtype, as the model does: length and quotient are each rounded to it (in bfloat16 more
    than a quarter of the values depend on that). Rows of zeros, the padding of a vocabulary, stay zero. The squares are
    summed in float64, so that the bits do not depend on the order of the sum.
    """
    match step:
        case "":
            return values
        case "plus_one":
            return values + np.float32(1)
        case "l2_rows":
            squares = np.square(values, dtype=np.float64).sum(-1, keepdims=True)
            length = rounded(np.sqrt(squares).astype(np.float32))
            return rounded(np.divide(values, length, out=np.zeros_like(values), where=length != 0))
