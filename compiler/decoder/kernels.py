"""Operations that a target may replace by a form that is faster there than plain torch."""

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
"""x [..., in], weight [out, in], bias [out] or None -> [..., out] of the dtype of x."""


@dataclass(frozen=True)
class Kernels:
    """`quantized` computes the layers with quantized weights, by one of the definitions: the scheme's choice. `cached`:
    the dtype of caches of layers that have scales for them.
    """

    linear: Linear = F.linear
    experts: Experts = loop
    quantized: QuantizedLinear = weight_only
    quantized_experts: QuantizedExperts = field(default_factory=lambda: experts(weight_only))
    attend: Attend = attend
    cached: torch.dtype = torch.float32


PLAIN = Kernels()
