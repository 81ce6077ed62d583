"""Floating-point products in packages.

    16 bits, on a CPU    operators of `ops.py`, which sum in float32. Few tokens are read at memory bandwidth; many go
                         through torch's library on CPUs with products of bfloat16, which others emulate
    otherwise            torch's product

`python -m benchmarks.linear` compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, gather, loop, of_chosen
from compiler.model.config import Activation
from compiler.targets.inductor import ops

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer: x [..., in], weight [out, in], bias [out] -> [..., out] in the dtype of x."""
    return _linear("floats", x, weight, bias)


def linear_many(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` for many tokens."""
    return _linear("floats_many", x, weight, bias)


def _linear(operator: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return ops.linear(operator, x, weight, bias) if _has_operator(x) else F.linear(x, weight, bias)


def many_experts(
    x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, biases: Biases = None
) -> Tensor:
    """Experts for many tokens, one after the other; shapes as in `compiler.decoder.moe.Experts`."""
    return loop(x, chosen, share, gate_up, down, kind, biases, linear=linear_many)


def few_experts(
    x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, biases: Biases = None
) -> Tensor:
    """Experts for few tokens; shapes as in `compiler.decoder.moe.Experts`. Sums in float32.

    On a CPU no weight is copied, and only the chosen experts' weights are read, once.
    """
    if not _has_operator(x):
        return gather(x, chosen, share, gate_up, down, kind, biases)
    inner = gated(of_chosen(ops.experts("floats", x, gate_up, chosen), biases, 0, chosen), kind)
    y = ops.experts("floats", inner.flatten(0, 1), down, chosen.reshape(-1, 1))
    return mixed(y, chosen, share, biases, x)


def mixed(y: Tensor, chosen: Tensor, share: Tensor, biases: Biases, x: Tensor) -> Tensor:
    """Weighted sum of each token's experts: y [N * k, 1, H], chosen and share [N, k] -> [N, H] in the dtype of x."""
    whole = of_chosen(y.reshape(*share.shape, -1), biases, 1, chosen)
    return (whole.float() * share[..., None]).sum(1).to(x.dtype)


def _has_operator(x: Tensor) -> bool:
    # evaluated while tracing, so dtype and device are the package's
    return x.device.type == "cpu" and x.dtype in SIXTEEN_BITS
