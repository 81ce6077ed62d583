"""Linear layers with int8 and int4 weights: what they compute. Faster forms of the same are a target's.

    weight_only   round((x W^T) * scale + bias)                          W int8, x as it is; products in float32
    per_token     round((q(x) W^T) * token scale * scale + bias)         W and q(x) int8, products summed in int32
    grouped       round(x (W * scale of its group)^T + bias)             W int4 in groups (`compiler.quant.int4`)

`scale` float32 [out] says what an integer of each row of W is worth; a token's is its largest magnitude / 127
(`compiler.quant.int8.quantize_tokens`, of which this is the form in torch). `round` goes to the dtype of x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compiler.decoder.mlp import gated
from compiler.decoder.moe import loop_over
from compiler.decoder.wide import product
from compiler.ir.config import Activation

QuantisedLinear = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""x [..., in], weight int8 [out, in], scale float32 [out], bias [out] or None -> [..., out] of the dtype of x."""

QuantisedExperts = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Activation], Tensor]
"""As `moe.Experts`, gate_up and down each followed by its scale float32 [E, rows]."""

_FLOOR = 1e-8


def weight_only(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantisedLinear` for the shapes."""
    return finish(product(x.float(), weight, None), scale, bias, x.dtype)


def per_token(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantisedLinear` for the shapes."""
    integers, worth = quantise_tokens(x.reshape(-1, x.shape[-1]))
    y = torch._int_mm(integers, weight.t()).float() * worth
    return finish(y, scale, bias, x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def grouped(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See the head of this file. weight uint8 [out, in / 2], two columns a byte; scale float32 [out, in / group]."""
    y = product(x.float(), dequantise_groups(weight, scale), None)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def dequantise_groups(weight: Tensor, scale: Tensor) -> Tensor:
    """uint8 [..., in / 2], as `compiler.quant.int4.pack` packs, scale [..., in / group] -> float32 [..., in]."""
    low, high = (weight << 4).view(torch.int8) >> 4, weight.view(torch.int8) >> 4
    integers = torch.stack((low, high), -1).flatten(-2)
    groups: Tensor = integers.unflatten(-1, (scale.shape[-1], -1)).float() * scale[..., None]
    return groups.flatten(-2)


def quantise_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., in] -> int8 [..., in], and what an integer of each token is worth, float32 [..., 1]."""
    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True).clamp_min(_FLOOR)
    steps = torch.full_like(largest, 127.0) / largest  # a number over a tensor is its reciprocal times the number
    return (wide * steps).round().clamp(-127, 127).to(torch.int8), 1.0 / steps


def finish(y: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The product of integers, float32 [..., out], in units of the layer, biased and rounded to `dtype`."""
    y = y * scale
    return (y if bias is None else y + bias.float()).to(dtype)


def experts(linear: QuantisedLinear) -> QuantisedExperts:
    """The loop over experts whose products are `linear`."""

    def run(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, gate_up_scale: Tensor, down: Tensor,
        down_scale: Tensor, kind: Activation,
    ) -> Tensor:  # fmt: skip
        def one(tokens: Tensor, e: int) -> Tensor:
            inner = gated(linear(tokens, gate_up[e], gate_up_scale[e], None), kind)
            return linear(inner, down[e], down_scale[e], None)

        return loop_over(x, chosen, share, gate_up.shape[0], one)

    return run
