"""Products as operators of torch: in plain torch their definition, in a compiled package a function of `native/`.

| operator  | weight                         | scale                   | x in the package       | definition    |
|-----------|--------------------------------|-------------------------|------------------------|---------------|
| floats    | [out, in], the dtype of x      |                         | as it is, sums float32 | x W^T         |
| int8      | int8 [out, in]                 | float32 [out]           | 16-bit integers        | `weight_only` |
| int8_int8 | int8 [out, in]                 | float32 [out]           | 8-bit integers         | `per_token`   |
| int4      | uint8 [out, in / 2], 2 columns | float32 [out, in / 128] | 16-bit integers        | `grouped`     |

Definitions are those of `compiler.decoder.quantised`. x [tokens, in] is bfloat16, float16 or float32 (not of `floats`);
the result has its dtype, and is [tokens, out]. With `chosen` int64 [tokens, k] weight and scale have an axis of experts
in front, and the result is [tokens, k, out]: row j of a token is its product with expert chosen[j]. Experts that nobody
chose are not read, the others once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from compiler.decoder import quantised
from compiler.decoder.quantised import QuantisedLinear

NAMESPACE = "lmi_compile"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_SCHEMA = "(Tensor x, Tensor weight, Tensor? scale, Tensor? bias, Tensor? chosen) -> Tensor"
_SHIM = "AOTITorchError aoti_torch_cpu_{name}(" + ", ".join(["AtenTensorHandle"] * 2 + ["AtenTensorHandle*"] * 4) + ")"


def _floats(x: Tensor, weight: Tensor, _scale: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def _scaled(product: QuantisedLinear) -> Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]:
    def run(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        assert scale is not None
        return product(x, weight, scale, bias)

    return run


DEFINITIONS = {
    "floats": _floats,
    "int8": _scaled(quantised.weight_only),
    "int8_int8": _scaled(quantised.per_token),
    "int4": _scaled(quantised.grouped),
}


def _register(name: str) -> OpOverload:
    linear = DEFINITIONS[name]

    def define(
        x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None, chosen: Tensor | None
    ) -> Tensor:  # fmt: skip
        if chosen is None:
            return linear(x, weight, scale, bias)
        y = x.new_empty((*chosen.shape, weight.shape[-2]))
        for expert in range(weight.shape[0]):
            token, slot = torch.where(chosen == expert)
            y[token, slot] = linear(x[token], weight[expert], None if scale is None else scale[expert], None)
        return y

    def shape(
        x: Tensor, weight: Tensor, _scale: Tensor | None, _bias: Tensor | None, chosen: Tensor | None
    ) -> Tensor:  # fmt: skip
        return x.new_empty((*(x.shape[:1] if chosen is None else chosen.shape), weight.shape[-2]))

    _LIBRARY.define(name + _SCHEMA)
    _LIBRARY.impl(name, define, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shape, lib=_LIBRARY)
    operator: OpOverload = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operator


OPERATORS = {name: _register(name) for name in DEFINITIONS}


def shims() -> dict[OpOverload, list[str]]:
    """What inductor wants to know of them: the C declaration of each, which `native/shim.cpp` defines."""
    return {operator: [_SHIM.format(name=name)] for name, operator in OPERATORS.items()}


def linear(name: str, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x [..., in] -> [..., out]."""
    y: Tensor = OPERATORS[name](x.reshape(-1, x.shape[-1]).contiguous(), weight, scale, bias, None)
    return y.reshape(*x.shape[:-1], weight.shape[-2])


def experts(name: str, x: Tensor, weight: Tensor, scale: Tensor | None, chosen: Tensor) -> Tensor:
    """x [tokens, in], chosen [tokens, k] -> [tokens, k, out]."""
    y: Tensor = OPERATORS[name](x.contiguous(), weight, scale, None, chosen.contiguous())
    return y
