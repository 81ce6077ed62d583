"""Products as torch operators: defined in plain torch, and by functions of `native/` in a compiled package.

| operator                  | weight                         | scale                   | definition      |
|---------------------------|--------------------------------|-------------------------|-----------------|
| floats, floats_many       | [out, in], the dtype of x      |                         | x W^T           |
| int8, int8_many           | int8 [out, in]                 | float32 [out]           | `weight_only`   |
| int8_int8, int8_int8_many | the same                       | the same                | `per_token`     |
| int4, int4_many           | uint8 [out, in / 2], 2 columns | float32 [out, in / 128] | `grouped`       |
| fp8                       | float8 e4m3 [out, in]          | float32 [out]           | `fp8_per_token` |

Definitions are those of the products in FEW and MANY (`compiler.decoder.quantized`); `native/README.md` says how the
package computes them. `*_many` are the same products for many tokens, where other code may be faster, which sums in
another order.

x [tokens, in] is bfloat16, float16 (except for int8_many and int4_many) or float32 (only for int8_int8*, fp8); the
result is [tokens, out] in its dtype. `input_scale` float32 [1], of int8_int8* and fp8, replaces a scale per token. With
`chosen` int64 [tokens, k], weight and scale have a leading axis of experts, and the result is [tokens, k, out]: row j
of a token is its product with expert chosen[j]. Only chosen experts are read, once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from compiler.decoder.quantized import QuantizedLinear, QuantizedWeight, definition

NAMESPACE = "lmi_compile"
FEW = {
    "weight_only": "int8",
    "per_token": "int8_int8",
    "per_tensor": "int8_int8",
    "grouped": "int4",
    "fp8_per_token": "fp8",
    "fp8_per_tensor": "fp8",
}
"""Operators for few tokens, by name of a `Product` of a number format."""
MANY = {
    "weight_only": "int8_many",
    "grouped": "int4_many",
    "per_token": "int8_int8_many",
    "per_tensor": "int8_int8_many",
}
"""Operators for many tokens, if different."""
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_SCHEMA = "(Tensor x, Tensor weight, Tensor? scale, Tensor? input_scale, Tensor? bias, Tensor? chosen) -> Tensor"
_SHIM = "AOTITorchError aoti_torch_cpu_{name}(" + ", ".join(["AtenTensorHandle"] * 2 + ["AtenTensorHandle*"] * 5) + ")"

Definition = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None], Tensor]
"""Function of x, weight, scale, input_scale and bias, without experts."""


def _floats(x: Tensor, weight: Tensor, _scale: Tensor | None, _input: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def _scaled(product: QuantizedLinear) -> Definition:
    def run(x: Tensor, weight: Tensor, scale: Tensor | None, given: Tensor | None, bias: Tensor | None) -> Tensor:
        assert scale is not None
        return product(x, QuantizedWeight(weight, scale, given), bias)

    return run


DEFINITIONS: dict[str, Definition] = {
    "floats": _floats,
    "floats_many": _floats,
    **{operator: _scaled(definition(product)) for of in (FEW, MANY) for product, operator in of.items()},
}
"""Definitions by operator."""


def _register(name: str) -> OpOverload:
    linear = DEFINITIONS[name]

    def define(
        x: Tensor, weight: Tensor, scale: Tensor | None, input_scale: Tensor | None, bias: Tensor | None,
        chosen: Tensor | None,
    ) -> Tensor:  # fmt: skip
        if chosen is None:
            return linear(x, weight, scale, input_scale, bias)
        y = x.new_empty((*chosen.shape, weight.shape[-2]))
        for expert in range(weight.shape[0]):
            token, slot = torch.where(chosen == expert)
            y[token, slot] = linear(
                x[token], weight[expert], None if scale is None else scale[expert], input_scale, None
            )
        return y

    def shape(
        x: Tensor, weight: Tensor, _scale: Tensor | None, _input: Tensor | None, _bias: Tensor | None,
        chosen: Tensor | None,
    ) -> Tensor:  # fmt: skip
        return x.new_empty((*(x.shape[:1] if chosen is None else chosen.shape), weight.shape[-2]))

    _LIBRARY.define(name + _SCHEMA)
    _LIBRARY.impl(name, define, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shape, lib=_LIBRARY)
    operator: OpOverload = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operator


OPERATORS = {name: _register(name) for name in DEFINITIONS}


def shims() -> dict[OpOverload, list[str]]:
    """C declarations of the operators for inductor; `native/shim.cpp` defines them."""
    return {operator: [_SHIM.format(name=name)] for name, operator in OPERATORS.items()}


def linear(name: str, x: Tensor, weight: Tensor | QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Product by the operator `name`: x [..., in] -> [..., out]."""
    values, scales = _parts(weight)
    y: Tensor = OPERATORS[name](x.reshape(-1, x.shape[-1]).contiguous(), values, *scales, bias, None)
    return y.reshape(*x.shape[:-1], values.shape[-2])


def experts(name: str, x: Tensor, weight: Tensor | QuantizedWeight, chosen: Tensor) -> Tensor:
    """Products with chosen experts by the operator `name`: x [tokens, in], chosen [tokens, k] -> [tokens, k, out]."""
    values, scales = _parts(weight)
    y: Tensor = OPERATORS[name](x.contiguous(), values, *scales, None, chosen.contiguous())
    return y


def _parts(weight: Tensor | QuantizedWeight) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    if isinstance(weight, Tensor):
        return weight, (None, None)
    return weight.values, (weight.scale, weight.input_scale)
