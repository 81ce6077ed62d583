"""Float32 products with weights of any dtype, widened one block of rows at a time.

Blocks have a fixed size, so that the bits of the result do not depend on the memory available.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16 << 20
"""Size of a widened block of rows, in bytes."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x float32 [..., in], weight [out, in] of any dtype, bias float32 [out] -> float32 [..., out]."""
    parts = weight.split(max(BLOCK // (4 * weight.shape[1]), 1))
    y = torch.cat([F.linear(x, part.float()) for part in parts], -1)
    return y if bias is None else y + bias
