"""Quantised linear layers: what they compute. Faster forms of the same are a target's.

    weight_only      round((x W^T) * scale + bias)                       W int8, x as it is; products in float32
    per_token        round((q(x) W^T) * worth * scale + bias)            W and q(x) int8, products summed in int32
    per_tensor       the same
    grouped          round(x (W * scale of its group)^T + bias)          W int4 in groups (`compiler.quantization.formats.int4`)
    fp8_per_token    round((q(x) W^T) * worth * scale + bias)            W and q(x) float8, products summed in float32
    fp8_per_tensor   the same

`scale` float32 [out] says what 1 in each row of W is worth, and `worth` what 1 in q(x) is: of a token its own, from its
largest magnitude (`compiler.quantization.formats.int8.quantize_tokens`, `compiler.quantization.formats.fp8`, of which these are the forms in torch),
or per tensor `input_scale`, which is fixed; then what is beyond the largest 8-bit number becomes that. A token with a
number that is none, or is infinite, has a result of NaN. `round` goes to the dtype of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compiler.decoder.mlp import gated
from compiler.decoder.moe import loop_over
from compiler.decoder.wide import product
from compiler.model.config import Activation


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight as rank files have it. Experts are an axis in front of `values` and `scale`; they share `input_scale`.

    `values` [out, in] int8 or float8, or uint8 [out, in / 2] of two int4 each. `scale` float32 [out], of groups
    [out, in / group]. `input_scale` float32 [1]: what 1 in the input is worth; None: every token has its own.
    """

    values: Tensor
    scale: Tensor
    input_scale: Tensor | None = None

    def expert(self, index: int) -> QuantisedWeight:
        """That of one expert."""
        return QuantisedWeight(self.values[index], self.scale[index], self.input_scale)


QuantisedLinear = Callable[[Tensor, QuantisedWeight, Tensor | None], Tensor]
"""x [..., in], weight, bias [out] or None -> [..., out] of the dtype of x."""

QuantisedExperts = Callable[[Tensor, Tensor, Tensor, QuantisedWeight, QuantisedWeight, Activation], Tensor]
"""As `moe.Experts`."""

_FLOOR = 1e-8
_LARGEST_FP8 = 448.0
_LEAST_FP8 = 1 / (448 * 512)


def weight_only(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantisedLinear` for the shapes."""
    return finish(product(x.float(), weight.values, None), weight.scale, bias, x.dtype)


def per_token(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantisedLinear` for the shapes. With an `input_scale` it is `per_tensor`."""
    integers, worth = quantise_tokens(x.reshape(-1, x.shape[-1]), weight.input_scale)
    y = torch._int_mm(integers, weight.values.t()).float() * worth
    return finish(y, weight.scale, bias, x.dtype).reshape(*x.shape[:-1], weight.values.shape[0])


def fp8_per_token(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantisedLinear` for the shapes. With an `input_scale` it is `fp8_per_tensor`."""
    values, worth = fp8_tokens(x, weight.input_scale)
    return finish(product(values.float(), weight.values, None) * worth, weight.scale, bias, x.dtype)


def grouped(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file."""
    y = product(x.float(), dequantise_groups(weight.values, weight.scale), None)
    return (y if bias is None else y + bias.float()).to(x.dtype)


DEFINITIONS: dict[str, QuantisedLinear] = {
    "weight_only": weight_only,
    "per_token": per_token,
    "per_tensor": per_token,
    "grouped": grouped,
    "fp8_per_token": fp8_per_token,
    "fp8_per_tensor": fp8_per_token,
}
"""By the names at the head of this file."""


def dequantise_groups(weight: Tensor, scale: Tensor) -> Tensor:
    """uint8 [..., in / 2], as `compiler.quantization.formats.int4.pack` packs, scale [..., in / group] -> float32 [..., in]."""
    low, high = (weight << 4).view(torch.int8) >> 4, weight.view(torch.int8) >> 4
    integers = torch.stack((low, high), -1).flatten(-2)
    groups: Tensor = integers.unflatten(-1, (scale.shape[-1], -1)).float() * scale[..., None]
    return groups.flatten(-2)


def quantise_tokens(x: Tensor, input_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [..., in] -> int8 [..., in], and what an integer of each token is worth, float32 [..., 1]."""
    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    if input_scale is None:
        bounded = largest.clamp_min(_FLOOR)
        steps = torch.full_like(bounded, 127.0) / bounded  # a number over a tensor is its reciprocal times the number
        worth = 1.0 / steps
    else:
        steps, worth = 1.0 / input_scale, _of_all(input_scale, largest)
    return (wide * steps).round().clamp(-127, 127).to(torch.int8), worth


def fp8_tokens(x: Tensor, input_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [..., in] -> float8 [..., in], and what 1 of each token is worth, float32 [..., 1]."""
    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    if input_scale is None:
        worth = (largest / torch.full_like(largest, _LARGEST_FP8)).clamp_min(_LEAST_FP8)
        steps = 1.0 / worth
    else:
        steps, worth = 1.0 / input_scale, _of_all(input_scale, largest)
    return (wide * steps).clamp(-_LARGEST_FP8, _LARGEST_FP8).to(torch.float8_e4m3fn), worth


def _of_all(input_scale: Tensor, largest: Tensor) -> Tensor:
    """[1] -> of each token, as `largest`: what cannot be told from the integers, this says."""
    return torch.where(largest.isfinite(), input_scale, float("nan"))


def finish(y: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The product of integers, float32 [..., out], in units of the layer, biased and rounded to `dtype`."""
    y = y * scale
    return (y if bias is None else y + bias.float()).to(dtype)


def experts(linear: QuantisedLinear) -> QuantisedExperts:
    """The loop over experts whose products are `linear`."""

    def run(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: QuantisedWeight, down: QuantisedWeight, kind: Activation
    ) -> Tensor:  # fmt: skip
        def one(tokens: Tensor, e: int) -> Tensor:
            return linear(gated(linear(tokens, gate_up.expert(e), None), kind), down.expert(e), None)

        return loop_over(x, chosen, share, gate_up.values.shape[0], one)

    return run
