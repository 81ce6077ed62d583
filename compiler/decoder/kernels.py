"""The products that a target may compute in another form than plain torch, because that form is faster there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.moe import Experts, loop

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x [..., in], weight [out, in], bias [out] or None -> [..., out] of the dtype of x."""


@dataclass(frozen=True)
class Kernels:
    linear: Linear = F.linear
    experts: Experts = loop


PLAIN = Kernels()
