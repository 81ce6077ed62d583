"""Fast implementations of the products in `compiler.decoder.quantized`.

| products                      | few tokens, CPU      | many tokens, CPU          | on CUDA                           |
|-------------------------------|----------------------|---------------------------|-----------------------------------|
| weight_only                   | operator `int8`      | operator `int8_many`      | torch's product, weight converted |
| grouped                       | operator `int4`      | operator `int4_many`      | torch's product, weight converted |
| grouped_64, _32, _16          | as on CUDA           | as on CUDA                | the same                          |
| per_token, per_tensor         | operator `int8_int8` | operator `int8_int8_many` | `_int_mm`                         |
| fp8_per_token, fp8_per_tensor | operator `fp8`       | the same                  | `_scaled_mm`                      |

Operators are those of `ops.py`. With quantized weights only, those for few tokens convert activations to 16-bit
integers: precise enough for bfloat16 and float16 (see `native/tokens.h`). For many tokens, float16 models use the
operator for few tokens or the CUDA implementation, and float32 models the latter. Experts with int8 activations are
computed one by one for many tokens, so that `native/library.cpp` can compute them.

No GPU has run the CUDA implementations yet: tests compare them with the definitions on a CPU, where torch has the same
functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, of_chosen
from compiler.decoder.quantized import (
    QuantizedExperts,
    QuantizedLinear,
    QuantizedWeight,
    definition,
    dequantize_groups,
    experts,
    finish,
)
from compiler.model.config import Activation
from compiler.quantization.formats import fp8, int4, int8
from compiler.targets.inductor import ops
from compiler.targets.inductor.floats import SIXTEEN_BITS, mixed

_INT8_ROWS, _INT8_WIDTH, _FP8_WIDTH = 16, 8, 16


def weight_only(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Product with an int8 weight, which is exact in every floating dtype; shapes as in `QuantizedLinear`."""
    return finish(F.linear(x, weight.values.to(x.dtype)).float(), weight.scale, bias, x.dtype)


def grouped(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Product with an int4 weight, rounded to the dtype of x; shapes as in `QuantizedLinear`."""
    return F.linear(x, dequantize_groups(weight.values, weight.scale).to(x.dtype), bias)


def int_mm(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """`per_token` and `per_tensor` by `torch._int_mm`. On CUDA that needs more than 16 rows, and widths that are
    multiples of 8 (aten/src/ATen/native/cuda/Blas.cpp), hence the padding with zeros.
    """
    integers, worth = int8.tokens(x.reshape(-1, x.shape[-1]), weight.input_scale)
    values, (out, inner) = weight.values, weight.values.shape
    columns, rows = -inner % _INT8_WIDTH, -out % _INT8_WIDTH
    if columns or rows:
        values = F.pad(values, (0, columns, 0, rows))
    sums = torch._int_mm(F.pad(integers, (0, columns, 0, _INT8_ROWS)), values.t())[:-_INT8_ROWS, :out]
    return finish(sums.float() * worth, weight.scale, bias, x.dtype).reshape(*x.shape[:-1], out)


def scaled_mm(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """`fp8_per_token` and `fp8_per_tensor` by `torch._scaled_mm` with float32 sums. Scales are applied to the result,
    since with row-wise scales it rounds to bfloat16. On CUDA widths must be multiples of 16
    (aten/src/ATen/native/cuda/Blas.cpp); others use the definition.
    """
    out, inner = weight.values.shape
    if out % _FP8_WIDTH or inner % _FP8_WIDTH:
        return definition("fp8_per_token")(x, weight, bias)
    values, worth = fp8.tokens(x.reshape(-1, inner), weight.input_scale)
    one = torch.ones((), device=x.device)
    sums = torch._scaled_mm(values, weight.values.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
    return finish(sums * worth, weight.scale, bias, x.dtype).reshape(*x.shape[:-1], out)


@dataclass(frozen=True)
class Form:
    """Implementation of a product: `operator` of `ops.py` for x in `dtypes` on a CPU, else `otherwise` in plain torch.
    `group`: columns that share a scale in the operator; None: a whole row.
    """

    operator: str
    dtypes: tuple[torch.dtype, ...]
    otherwise: QuantizedLinear
    group: int | None = None

    def takes(self, x: Tensor, weight: QuantizedWeight) -> bool:
        if x.device.type != "cpu" or x.dtype not in self.dtypes:
            return False
        return self.group is None or x.shape[-1] == weight.scale.shape[-1] * self.group

    def linear(self, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        """Product; shapes as in `QuantizedLinear`."""
        if not self.takes(x, weight):
            return self.otherwise(x, weight, bias)
        return ops.linear(self.operator, x, weight, bias)

    def experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: QuantizedWeight, down: QuantizedWeight,
        kind: Activation, biases: Biases = None,
    ) -> Tensor:  # fmt: skip
        """Products of experts; shapes as in `QuantizedExperts`. The operator reads only chosen experts, once."""
        if not self.takes(x, gate_up):
            return experts(self.otherwise)(x, chosen, share, gate_up, down, kind, biases)
        inner = gated(of_chosen(ops.experts(self.operator, x, gate_up, chosen), biases, 0, chosen), kind)
        y = ops.experts(self.operator, inner.flatten(0, 1), down, chosen.reshape(-1, 1))
        return mixed(y, chosen, share, biases, x)


_ALL = (*SIXTEEN_BITS, torch.float32)
_GROUP = int4.FORMAT.group
_WEIGHT_ONLY = Form(ops.FEW["weight_only"], SIXTEEN_BITS, weight_only)
_WEIGHT_ONLY_MANY = Form(ops.MANY["weight_only"], (torch.bfloat16,), weight_only)
_INT8 = Form(ops.FEW["per_token"], _ALL, int_mm)
_INT8_MANY = Form(ops.MANY["per_token"], _ALL, int_mm)
_GROUPED = Form(ops.FEW["grouped"], SIXTEEN_BITS, grouped, _GROUP)
_GROUPED_MANY = Form(ops.MANY["grouped"], (torch.bfloat16,), _GROUPED.linear, _GROUP)
_FP8 = Form(ops.FEW["fp8_per_token"], _ALL, scaled_mm)

Pair = tuple[QuantizedLinear, QuantizedExperts]
FEW_TOKENS: dict[str, Pair] = {
    "weight_only": (_WEIGHT_ONLY.linear, _WEIGHT_ONLY.experts),
    "per_token": (_INT8.linear, _INT8.experts),
    "per_tensor": (_INT8.linear, _INT8.experts),
    **{name: (grouped, experts(grouped)) for name in int4.GROUPS.values()},
    "grouped": (_GROUPED.linear, _GROUPED.experts),
    "fp8_per_token": (_FP8.linear, _FP8.experts),
    "fp8_per_tensor": (_FP8.linear, _FP8.experts),
}
"""Implementations for decode steps, by name of a `Product` of a number format."""
MANY_TOKENS: dict[str, Pair] = {
    **FEW_TOKENS,
    "weight_only": (_WEIGHT_ONLY_MANY.linear, _WEIGHT_ONLY_MANY.experts),
    "grouped": (_GROUPED_MANY.linear, _GROUPED_MANY.experts),
    "per_token": (_INT8_MANY.linear, experts(_INT8_MANY.linear)),
    "per_tensor": (_INT8_MANY.linear, experts(_INT8_MANY.linear)),
}
"""Implementations for prefill."""


def form(table: dict[str, Pair], product: str) -> Pair:
    """Implementation of a `Product` in FEW_TOKENS or MANY_TOKENS; its definition if there is no faster one."""
    plain = definition(product)
    return table.get(product) or (plain, experts(plain))
