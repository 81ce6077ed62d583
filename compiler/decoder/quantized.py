"""Quantized linear layers: their definitions, in plain torch. A target may compute the same in faster forms.

    weight_only      round((x W^T) * scale + bias)                       x in floating point; products in float32
    grouped          round(x (W * scale of its group)^T + bias)          x in floating point, W in groups
    rounded_inputs   round((q(x) W^T) * input scale * scale + bias)      q(x) in the format of W; products of integers
                                                                         are summed in int32, others in float32

`scale` float32 [out] has one scale for each row of W. The input scale is that of a token, from its largest magnitude
(`ActivationUse.tokens` of the format), or the fixed `input_scale` of the layer: larger magnitudes then saturate. Tokens
with a NaN or an infinity give NaN. `round` casts to the dtype of x. `definition` finds the definition of a `Product`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, loop_over
from compiler.decoder.wide import product
from compiler.machine import features
from compiler.model.config import Activation
from compiler.quantization.format import ActivationUse
from compiler.quantization.formats import products


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as in rank files. Experts are a leading axis of `values` and `scale`; they share `input_scale`.

    `values` [out, in] int8 or float8, or uint8 [out, in / 2] of two four-bit integers each. `scale` float32 [out], or
    [out, in / group]. `input_scale` float32 [1]; None: every token has its own.
    """

    values: Tensor
    scale: Tensor
    input_scale: Tensor | None = None

    def expert(self, index: int) -> QuantizedWeight:
        return QuantizedWeight(self.values[index], self.scale[index], self.input_scale)


QuantizedLinear = Callable[[Tensor, QuantizedWeight, Tensor | None], Tensor]
"""x [..., in], weight, bias [out] or None -> [..., out] in the dtype of x."""

QuantizedExperts = Callable[[Tensor, Tensor, Tensor, QuantizedWeight, QuantizedWeight, Activation, Biases], Tensor]
"""`moe.Experts` with quantized weights."""


def weight_only(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Quantized weights, floating-point activations. Shapes: `QuantizedLinear`."""
    return finish(product(x.float(), weight.values, None), weight.scale, bias, x.dtype)


def rounded_inputs(use: ActivationUse, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Quantized weights and activations, per token or with an `input_scale` per tensor. Shapes: `QuantizedLinear`."""
    units, input_scale = use.tokens(x, weight.input_scale)
    if units.dtype.is_floating_point:
        y = product(units.float(), weight.values, None)
    else:
        sums = integer_product(units.reshape(-1, x.shape[-1]), weight.values)
        y = sums.float().reshape(*x.shape[:-1], weight.values.shape[0])
    return finish(y * input_scale, weight.scale, bias, x.dtype)


_EXACT_INTEGERS = frozenset({"avx512_vnni", "avx_vnni"})
_EXACT_COLUMNS = 1024
"""Columns whose products of 8-bit integers sum to at most 2^24: float32 has all integers up to there."""


def integer_product(x: Tensor, weight: Tensor) -> Tensor:
    """Product of int8 x [tokens, in] and weight [out, in] -> int32 [tokens, out], exact.

    `torch._int_mm` is not on CPUs without 8-bit dot products: the library's code for AVX2 adds pairs of products in 16
    bits, which saturate (127 x 127 x 2 columns; torch 2.13). On GPUs it takes no 16 rows or fewer. There float32 sums
    some columns at a time.
    """
    if x.device.type == "cpu" and features() & _EXACT_INTEGERS:
        return torch._int_mm(x, weight.t())
    total = x.new_zeros(x.shape[0], weight.shape[0], dtype=torch.int32)
    for columns, of_weight in zip(x.split(_EXACT_COLUMNS, 1), weight.split(_EXACT_COLUMNS, 1), strict=True):
        total += (columns.float() @ of_weight.float().T).to(torch.int32)
    return total


def grouped(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Weights quantized in groups, floating-point activations. Shapes: `QuantizedLinear`."""
    y = product(x.float(), dequantize_groups(weight.values, weight.scale), None)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def weights_alone(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """`weight_only` or `grouped`, by the scales of the weight. Shapes: `QuantizedLinear`."""
    return (grouped if weight.scale.ndim == weight.values.ndim else weight_only)(x, weight, bias)


def definition(name: str) -> QuantizedLinear:
    """Linear layer of the `Product` of that name."""
    form, product = products()[name]
    if product.activations == "float":
        return weight_only if product.group is None else grouped
    assert form.activations is not None, name
    return partial(rounded_inputs, form.activations)


def dequantize_groups(weight: Tensor, scale: Tensor) -> Tensor:
    """Dequantize int8 [..., in], or uint8 [..., in / 2] of two four-bit neighbors each, the first in the lower half;
    scale [..., in / group] -> float32 [..., in].
    """
    if weight.dtype == torch.uint8:
        low, high = (weight << 4).view(torch.int8) >> 4, weight.view(torch.int8) >> 4
        weight = torch.stack((low, high), -1).flatten(-2)
    groups: Tensor = weight.unflatten(-1, (scale.shape[-1], -1)).float() * scale[..., None]
    return groups.flatten(-2)


def finish(y: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Scale the product y float32 [..., out] of quantized values, add the bias, cast to `dtype`."""
    y = y * scale
    return (y if bias is None else y + bias.float()).to(dtype)


def experts(linear: QuantizedLinear) -> QuantizedExperts:
    """Loop over experts whose products are `linear`."""

    def run(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: QuantizedWeight, down: QuantizedWeight, kind: Activation,
        biases: Biases = None,
    ) -> Tensor:  # fmt: skip
        def one(tokens: Tensor, e: int) -> Tensor:
            first, second = (None, None) if biases is None else (biases[0][e], biases[1][e])
            return linear(gated(linear(tokens, gate_up.expert(e), first), kind), down.expert(e), second)

        return loop_over(x, chosen, share, gate_up.values.shape[0], one)

    return run
