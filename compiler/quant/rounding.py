"""A linear layer's weight on its way to int8, block by block (`compiler.ir.lazy.Quantise`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.quant import int8

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Rounding:
    """`steps` [..., out], `columns` [..., in] or None, of a weight [..., out, in]; float32."""

    steps: Values
    columns: Values | None

    def apply(self, values: Values, begin: tuple[int, ...]) -> int8.Integers:
        """The integers of a block of whole rows: values [..., n, in], whose first element is at `begin`."""
        *lead, _, _ = box = tuple(slice(b, b + n) for b, n in zip(begin, values.shape, strict=True))
        if self.columns is not None:
            values = values * self.columns[tuple(lead)][..., None, :]
        return int8.quantize(values, self.steps[box[:-1]][..., None])
