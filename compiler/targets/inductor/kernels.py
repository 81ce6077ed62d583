"""The product of one token row, in the form that inductor turns into a loop at the bandwidth of memory.

The library's product (oneDNN through `F.linear`) packs and tiles for many rows; with one row the work is nothing but
reading the weight once. Written as multiply-and-sum, inductor makes a loop over the weight's rows of it. One such loop
is bound by the latency of its one accumulator, so the weight is cut into blocks of rows, one sum each: inductor fuses
them into one loop with as many accumulators, in which every load of x serves all blocks.

    weight  block 0  n0 ─┐
            block 1  n1 ─┼─ one iteration: n0.x  n1.x  n2.x  n3.x
            block 2  n2 ─┤
            block 3  n3 ─┘

Measured once while this was written (no benchmark repeats it; `python -m benchmarks.decode` times whole models).
Microseconds (GB/s) for one product with [5632, 2048] bfloat16, x in float32, march x86-64-v3, two threads; memory gives
26 GB/s. One launch a cell, and those of a row are not all from the same launch: read 10 % as equal.

| rows | F.linear    | one sum     | 4 blocks    | 8 blocks   |
|------|-------------|-------------|-------------|------------|
| 1    | 1063 (21.7) | 1616 (14.3) | 977 (23.6)  | 894 (25.8) |
| 2    | 1065 (21.7) | 2031 (11.4) | 1016 (22.7) |            |
| 4    | 1065 (21.7) | 2117 (10.9) | 1286 (17.9) |            |

From two rows on `F.linear` stays: it also finds AVX512 and AMX at run time, whatever the package was compiled for.
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

BLOCKS = 8
"""Blocks of the weight: as many accumulators as registers hold (AVX2 has 16, two to each)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in], weight [out, in], bias [out] -> [..., out] of the dtype of x. One row is summed in float32.

    The form is chosen while tracing: one row, fixed, on the CPU takes blocks; everything else `F.linear`.
    """
    if not _is_one(math.prod(x.shape[:-1])) or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    y = _product(x.reshape(-1).float(), weight)
    if bias is not None:
        y = y + bias.float()
    return y.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def expert_gather(x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
    """The experts of few tokens; shapes as in `compiler.decoder.moe.Experts`. Sums in float32.

    For one token each chosen expert is two products of one row, read where they lie: no weight is copied.
    """
    if not _is_one(x.shape[0]) or x.device.type != "cpu":
        return gather(x, chosen, share, gate_up, down, kind)
    row = x[0].float()
    total = _sum(_expert(row, gate_up[e], down[e], kind, x.dtype) * s for e, s in _pairs(chosen[0], share[0]))
    return total.to(x.dtype)[None]


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
