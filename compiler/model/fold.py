"""Steps that a model applies to its weights at run time, applied ahead for toolchains that lack them.

    plus_one    w + 1                          Gemma's norms multiply by 1 + w
    l2_rows     w / |w|, row by row            Baichuan 2 divides every row of its head by its length

A fold works on single rows (the last axis), so a tensor can be folded in blocks of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compiler.model.lazy import Fold

Values = NDArray[np.float32]


def fold(step: Fold, values: Values, rounded: Callable[[Values], Values]) -> Values:
    """Fold values [..., n] float32 -> the same shape. `rounded` rounds to the checkpoint's own dtype.

    l2_rows computes in that dtype, as the model does: length and quotient are each rounded to it (in bfloat16 this
    changes more than a quarter of the values). Rows of zeros, the padding of a vocabulary, stay zero. Squares are
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
