"""Operations that a target may replace by faster forms than plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.attention import Attend, attend
from compiler.decoder.mlp import gated
from compiler.decoder.moe import Experts, loop, loop_over
from compiler.decoder.quantized import QuantizedExperts, QuantizedLinear, experts, weight_only
from compiler.decoder.wide import product

if TYPE_CHECKING:
    from compiler.decoder.moe import Biases
    from compiler.model.config import Activation

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x [..., in], weight [out, in], bias [out] or None -> [..., out] in the dtype of x."""


@dataclass(frozen=True)
class Kernels:
    """Operations of the decoder. `quantized`, `quantized_experts`: for layers with quantized weights, by the definition
    that the scheme chose; `head`: for a head with quantized weights. `cached`: dtype of quantized caches.
    """

    linear: Linear = F.linear
    experts: Experts = loop
    quantized: QuantizedLinear = weight_only
    quantized_experts: QuantizedExperts = field(default_factory=lambda: experts(weight_only))
    head: QuantizedLinear = weight_only
    attend: Attend = attend
    cached: torch.dtype = torch.float32


PLAIN = Kernels()


def wide(kernels: Kernels) -> Kernels:
    """Kernels with float32 products of floating-point weights, which are widened a block at a time."""

    def widened(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, biases: Biases
    ) -> Tensor:
        def run(tokens: Tensor, e: int) -> Tensor:
            first, second = (None, None) if biases is None else (biases[0][e].float(), biases[1][e].float())
            return product(gated(product(tokens, gate_up[e], first), kind), down[e], second)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    return replace(kernels, linear=product, experts=widened)
