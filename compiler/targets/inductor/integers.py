"""The products of `compiler.decoder.quantised` in the forms that are fast here.

| products    | few tokens, on a CPU         | many tokens, or elsewhere                                  |
|-------------|------------------------------|------------------------------------------------------------|
| weight_only | operator `int8` of `ops.py`  | the weight made floating-point, and the ordinary product   |
| per_token   | operator `int8_int8`         | the operator too; elsewhere `_int_mm`, as it is defined    |
| grouped     | operator `int4`              | the operator too; elsewhere the weight made floating-point |

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
    """`operator` in `ops.py` for x of one of `dtypes` on a CPU, `otherwise` in plain torch."""

    operator: str
    dtypes: tuple[torch.dtype, ...]
    otherwise: QuantisedLinear

    def takes(self, x: Tensor, scale: Tensor) -> bool:
        if x.device.type != "cpu" or x.dtype not in self.dtypes:
            return False
        return self.operator != "int4" or x.shape[-1] == scale.shape[-1] * GROUP

    def linear(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """See `QuantisedLinear` for the shapes."""
        if not self.takes(x, scale):
            return self.otherwise(x, weight, scale, bias)
        return ops.linear(self.operator, x, weight, scale, bias)

    def experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, gate_up_scale: Tensor, down: Tensor,
        down_scale: Tensor, kind: Activation,
    ) -> Tensor:  # fmt: skip
        """See `QuantisedExperts` for the shapes. The operator reads what was chosen, and that once."""
        if not self.takes(x, gate_up_scale):
            return experts(self.otherwise)(x, chosen, share, gate_up, gate_up_scale, down, down_scale, kind)
        inner = gated(ops.experts(self.operator, x, gate_up, gate_up_scale, chosen), kind)
        y = ops.experts(self.operator, inner.flatten(0, 1), down, down_scale, chosen.reshape(-1, 1))
        return mixed(y, share, x)


_WEIGHT_ONLY = Form("int8", SIXTEEN_BITS, weight_only)
_PER_TOKEN = Form("int8_int8", (*SIXTEEN_BITS, torch.float32), per_token)
_GROUPED = Form("int4", SIXTEEN_BITS, grouped)

Pair = tuple[QuantisedLinear, QuantisedExperts]
FEW_TOKENS: dict[str, Pair] = {
    "weight_only": (_WEIGHT_ONLY.linear, _WEIGHT_ONLY.experts),
    "per_token": (_PER_TOKEN.linear, _PER_TOKEN.experts),
    "grouped": (_GROUPED.linear, _GROUPED.experts),
}
"""By what is asked of products: those of decoding."""
MANY_TOKENS: dict[str, Pair] = {
    "weight_only": (weight_only, experts(weight_only)),
    "per_token": (_PER_TOKEN.linear, experts(_PER_TOKEN.linear)),
    "grouped": (_GROUPED.linear, _GROUPED.experts),
}
"""Those of prefill."""
