"""Quantized linear layers: their definitions, in plain torch. A target may compute the same in faster forms.

    weight_only      round((x W^T) * scale + bias)                       x as it is; products in float32
    grouped          round(x (W * scale of its group)^T + bias)          x as it is, W in groups
    rounded_inputs   round((q(x) W^T) * worth * scale + bias)            q(x) in the format of W; products of integers
                                                                         are summed in int32, others in float32

`scale` float32 [out] is the worth of 1 in each row of W, and `worth` that of 1 in q(x): of each token, from its largest
magnitude (`ActivationUse.tokens` of the format), or per tensor `input_scale`, which is fixed; magnitudes beyond the
largest number of the format then become that. A token with a NaN or an infinity has a result of NaN. `round` goes to
the dtype of x. Which definition a format has is said by its `Product`s: `definition`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from compiler.decoder.mlp import gated
from compiler.decoder.moe import loop_over
from compiler.decoder.wide import product
from compiler.model.config import Activation
from compiler.quantization.format import ActivationUse
from compiler.quantization.formats import products


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as rank files have it. Experts are an axis in front of `values` and `scale`; they share `input_scale`.

    `values` [out, in] int8 or float8, or uint8 [out, in / 2] of two four-bit integers each. `scale` float32 [out], of
    groups [out, in / group]. `input_scale` float32 [1]: worth of 1 in the input; None: every token has its own.
    """

    values: Tensor
    scale: Tensor
    input_scale: Tensor | None = None

    def expert(self, index: int) -> QuantizedWeight:
        """The weight of one expert."""
        return QuantizedWeight(self.values[index], self.scale[index], self.input_scale)


QuantizedLinear = Callable[[Tensor, QuantizedWeight, Tensor | None], Tensor]
"""x [..., in], weight, bias [out] or None -> [..., out] of the dtype of x."""

QuantizedExperts = Callable[[Tensor, Tensor, Tensor, QuantizedWeight, QuantizedWeight, Activation], Tensor]
"""As `moe.Experts`."""


def weight_only(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantizedLinear` for the shapes."""
    return finish(product(x.float(), weight.values, None), weight.scale, bias, x.dtype)


def rounded_inputs(use: ActivationUse, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantizedLinear` for the shapes. With an `input_scale` it is per tensor."""
    units, worth = use.tokens(x, weight.input_scale)
    if units.dtype.is_floating_point:
        y = product(units.float(), weight.values, None)
    else:
        sums = torch._int_mm(units.reshape(-1, x.shape[-1]), weight.values.t())
        y = sums.float().reshape(*x.shape[:-1], weight.values.shape[0])
    return finish(y * worth, weight.scale, bias, x.dtype)


def grouped(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """See the head of this file, and `QuantizedLinear` for the shapes."""
    y = product(x.float(), dequantize_groups(weight.values, weight.scale), None)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def definition(name: str) -> QuantizedLinear:
    """The linear layer that the `Product` of that name stands for."""
    form, product = products()[name]
    if product.activations == "float":
        return weight_only if form.group is None else grouped
    assert form.activations is not None, name
    return partial(rounded_inputs, form.activations)


def dequantize_groups(weight: Tensor, scale: Tensor) -> Tensor:
    """int8 [..., in], or uint8 [..., in / 2] of two four-bit integers each, neighbors in a row with the first in the
    lower half; scale [..., in / group] -> float32 [..., in].
    """
    if weight.dtype == torch.uint8:
        low, high = (weight << 4).view(torch.int8) >> 4, weight.view(torch.int8) >> 4
        weight = torch.stack((low, high), -1).flatten(-2)
    groups: Tensor = weight.unflatten(-1, (scale.shape[-1], -1)).float() * scale[..., None]
    return groups.flatten(-2)


def finish(y: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The product of integers, float32 [..., out], in units of the layer, biased and rounded to `dtype`."""
    y = y * scale
    return (y if bias is None else y + bias.float()).to(dtype)


def experts(linear: QuantizedLinear) -> QuantizedExperts:
    """The loop over experts whose products are `linear`."""

    def run(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: QuantizedWeight, down: QuantizedWeight, kind: Activation
    ) -> Tensor:  # fmt: skip
        def one(tokens: Tensor, e: int) -> Tensor:
            return linear(gated(linear(tokens, gate_up.expert(e), None), kind), down.expert(e), None)

        return loop_over(x, chosen, share, gate_up.values.shape[0], one)

    return run
