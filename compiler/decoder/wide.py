"""Products in float32 with weights of any dtype, which are widened a block of rows at a time.

Always the same blocks: memory is that of the stored weight, and the bits do not depend on how much of it there is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16 << 20
"""Bytes of float32 that a block of rows is widened to."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x float32 [..., in], weight [out, in] of any dtype, bias float32 [out] -> float32 [..., out]."""
    parts = weight.split(max(BLOCK // (4 * weight.shape[1]), 1))
    y = torch.cat([F.linear(x, part.float()) for part in parts], -1)
    return y if bias is None else y + bias
