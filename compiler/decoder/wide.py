"""Float32 products with weights of any dtype, widened one block of rows at a time.

Blocks have a fixed size, so that the bits of the result do not depend on the memory available.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.moe import loop_over

if TYPE_CHECKING:
    from compiler.decoder.kernels import Kernels
    from compiler.decoder.moe import Biases
    from compiler.model.config import Activation

BLOCK = 16 << 20
"""Size of a widened block of rows, in bytes."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x float32 [..., in], weight [out, in] of any dtype, bias float32 [out] -> float32 [..., out]."""
    parts = weight.split(max(BLOCK // (4 * weight.shape[1]), 1))
    y = torch.cat([F.linear(x, part.float()) for part in parts], -1)
    return y if bias is None else y + bias


def wide(kernels: Kernels) -> Kernels:
    """Kernels with these products for floating-point weights."""

    def experts(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, biases: Biases
    ) -> Tensor:
        def run(tokens: Tensor, e: int) -> Tensor:
            first, second = (None, None) if biases is None else (biases[0][e].float(), biases[1][e].float())
            return product(gated(product(tokens, gate_up[e], first), kind), down[e], second)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    return replace(kernels, linear=product, experts=experts)
