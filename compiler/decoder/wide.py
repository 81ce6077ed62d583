"""Float32 products with weights of any dtype, widened one block of rows at a time.

Blocks have a fixed size, so that the bits of the result do not depend on the memory available.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 16 << 20
"""Size of a widened block of rows, in bytes."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x float32 [..., in], weight [out, in] of any dtype, bias float32 [out] -> float32 [..., out]."""
    rows = x.reshape(-1, x.shape[-1])
    y = rows.new_empty(len(rows), len(weight))
    block = max(BLOCK // (4 * weight.shape[1]), 1)
    for begin in range(0, len(weight), block):
        part = weight[begin : begin + block]
        torch.mm(rows, part.float().t(), out=y[:, begin : begin + len(part)])
    y = y.view(*x.shape[:-1], len(weight))
    return y if bias is None else y.add_(bias)
