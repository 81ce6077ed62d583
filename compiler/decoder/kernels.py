"""Operations that a target may replace by faster forms than plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.attention import Attend, attend
from compiler.decoder.moe import Experts, loop
from compiler.decoder.quantized import QuantizedExperts, QuantizedLinear, experts, weight_only

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x [..., in], weight [out, in], bias [out] or None -> [..., out] in the dtype of x."""


@dataclass(frozen=True)
class Kernels:
    """Operations of the decoder. `quantized`, `quantized_experts`: for layers with quantized weights, by the definition
    that the scheme chose. `cached`: dtype of quantized caches.
    """

    linear: Linear = F.linear
    experts: Experts = loop
    quantized: QuantizedLinear = weight_only
    quantized_experts: QuantizedExperts = field(default_factory=lambda: experts(weight_only))
    attend: Attend = attend
    cached: torch.dtype = torch.float32


PLAIN = Kernels()
