"""The products of `compiler.decoder.quantised` in the forms that are fast here.

| products    | few tokens, on a CPU         | many tokens, or elsewhere                                  |
|-------------|------------------------------|------------------------------------------------------------|
| weight_only | operator `int8` of `ops.py`  | the weight made floating-point, and the ordinary product   |
| per_token   | operator `int8_int8`         | as it is defined: through `_int_mm`                        |
| grouped     | operator `int4`              | the weight made floating-point, and the ordinary product   |

Operators read activations as integers too, of 16 bits where only weights are quantised: fine enough for bfloat16 and
float16 (`native/tokens.h` says why). In float32 `weight_only` and `grouped` keep the ordinary product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.quantised import QuantisedExperts, QuantisedLinear, dequantise_groups, experts, finish, per_token
from compiler.ir.config import Activation
from compiler.quant.int4 import GROUP
from compiler.targets.inductor import ops
from compiler.targets.inductor.floats import SIXTEEN_BITS, mixed


def weight_only(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `QuantisedLinear` for the shapes. An int8 is exact in every floating dtype."""
    return finish(F.linear(x, weight.to(x.dtype)).float(), scale, bias, x.dtype)


def grouped(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `quantised.grouped` for the shapes. Weights are rounded to the dtype of x."""
    return F.linear(x, dequantise_groups(weight, scale).to(x.dtype), bias)


@dataclass(frozen=True)
class Form:
    """`operator` in `ops.py` for x of one of `dtypes`, `otherwise` in plain torch."""

    operator: str
    dtypes: tuple[torch.dtype, ...]
    otherwise: QuantisedLinear

    def takes(self, x: Tensor, scale: Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype not in self.dtypes:
            return False
        return self.operator != "int4" or x.shape[-1] == scale.shape[-1] * GROUP


FORMS = {
    "weight_only": Form("int8", SIXTEEN_BITS, weight_only),
    "per_token": Form("int8_int8", (*SIXTEEN_BITS, torch.float32), per_token),
    "grouped": Form("int4", SIXTEEN_BITS, grouped),
}
"""By what is asked of products."""


def few_tokens(form: Form) -> tuple[QuantisedLinear, QuantisedExperts]:
    """The products of decoding."""

    def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        if not form.takes(x, scale):
            return form.otherwise(x, weight, scale, bias)
        return ops.linear(form.operator, x, weight, scale, bias)

    def chosen_experts(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, gate_up_scale: Tensor, down: Tensor,
        down_scale: Tensor, kind: Activation,
    ) -> Tensor:  # fmt: skip
        if not form.takes(x, gate_up_scale):
            return experts(form.otherwise)(x, chosen, share, gate_up, gate_up_scale, down, down_scale, kind)
        inner = gated(ops.experts(form.operator, x, gate_up, gate_up_scale, chosen), kind)
        y = ops.experts(form.operator, inner.flatten(0, 1), down, down_scale, chosen.reshape(-1, 1))
        return mixed(y, share, x)

    return linear, chosen_experts


def many_tokens(form: Form) -> tuple[QuantisedLinear, QuantisedExperts]:
    """The products of prefill."""
    return form.otherwise, experts(form.otherwise)
