"""Floating-point products of few tokens, which are nothing but reading a weight once.

    bfloat16             the operator of `ops.py`: as many rows as there are, in float32, at the bandwidth of memory
    other, one row       multiply and sum, which inductor turns into a loop over the weight
    other, more rows     `F.linear`

One loop of multiply and sum is bound by the latency of its one accumulator, so the weight is cut into blocks of rows,
one sum each: inductor fuses them into one loop with as many accumulators, in which every load of x serves all blocks.

    weight  block 0  n0 ─┐
            block 1  n1 ─┼─ one iteration: n0.x  n1.x  n2.x  n3.x
            block 2  n2 ─┤
            block 3  n3 ─┘

`python -m benchmarks.linear` compares the operators with `F.linear`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.moe import gather
from compiler.ir.config import Activation
from compiler.targets.inductor import ops

BLOCKS = 8
"""Blocks of the weight: as many accumulators as registers hold (AVX2 has 16, two to each)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in], weight [out, in], bias [out] -> [..., out] of the dtype of x. Sums in float32 but for `F.linear`.

    The form is chosen while tracing, by dtype, device and number of rows.
    """
    if _has_operator(x):
        return ops.linear("bfloat16", x, weight, None, bias)
    if not _is_one(math.prod(x.shape[:-1])) or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    y = _product(x.reshape(-1).float(), weight)
    if bias is not None:
        y = y + bias.float()
    return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def few_experts(x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
    """The experts of few tokens; shapes as in `compiler.decoder.moe.Experts`. Sums in float32.

    No weight is copied, and of experts that no token chose none is read.
    """
    if _has_operator(x):
        inner = gated(ops.experts("bfloat16", x, gate_up, None, chosen), kind)
        return mixed(ops.experts("bfloat16", inner.flatten(0, 1), down, None, chosen.reshape(-1, 1)), share, x)
    if not _is_one(x.shape[0]) or x.device.type != "cpu":
        return gather(x, chosen, share, gate_up, down, kind)
    row = x[0].float()
    total = _sum(_expert(row, gate_up[e], down[e], kind, x.dtype) * s for e, s in _pairs(chosen[0], share[0]))
    return total.to(x.dtype)[None]


def mixed(y: Tensor, share: Tensor, x: Tensor) -> Tensor:
    """What each token's experts gave, y [N * k, 1, H], by their shares [N, k] -> [N, H] of the dtype of x."""
    return (y.reshape(*share.shape, -1).float() * share[..., None]).sum(1).to(x.dtype)


def _has_operator(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def _expert(row: Tensor, gate_up: Tensor, down: Tensor, kind: Activation, dtype: torch.dtype) -> Tensor:
    # Rounded where the general form rounds, so that one token gets what many get.
    inner = gated(_product(row, gate_up).to(dtype), kind)
    return _product(inner.float(), down).to(dtype).float()


def _product(row: Tensor, weight: Tensor) -> Tensor:
    """row [in] float32, weight [out, in] -> [out] float32."""
    blocks = math.gcd(BLOCKS, weight.shape[0])
    parts = weight.unflatten(0, (blocks, -1)).unbind()
    return torch.cat([(part.float() * row).sum(-1) for part in parts])


def _is_one(count: int) -> bool:
    # Free sizes are symbols, not ints; to compare one would fix it.
    return type(count) is int and count == 1


def _pairs(chosen: Tensor, share: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(chosen.unbind(), share.unbind(), strict=True)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first
