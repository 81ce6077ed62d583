"""Grouped-query attention over a static cache, with a position of its own for every token.

A cache tensor [Bmax, T, kv_heads, D] is allocated once. Tokens write their k and v at (row, position); queries then see
the first L positions of each row, masked to those at or before their own. So rows of different length share a step, and
what stands in the cache behind a row's position never matters (it must be finite: zeros at first).

    kv head h serves query heads h * group ... (h + 1) * group - 1, with group = heads / kv_heads

A quantized cache holds what k and v are in units of their scales; the keys and the values of every kv head have one:

    unit   k / scale, at most the largest of the format, rounded

Queries see what was stored, that of their own step included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.quantization.formats import load


def cache_dtype(form: str) -> torch.dtype:
    """The dtype of a cache in the number format called `form`."""
    found: torch.dtype = getattr(torch, load(form).torch_dtype)
    return found


@dataclass(frozen=True)
class Cache:
    """The keys and values of a layer, each [Bmax, T, kv_heads, D]. With scales float32 [kv_heads], which say what 1 is
    worth, they are of a `cache_dtype`; without (None), of that of the model.
    """

    k: Tensor
    v: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None


Attend = Callable[[Tensor, Cache, Tensor, Tensor, int | None, Tensor | None], Tensor]
"""q [B, S, heads, D], a cache that holds keys and values of all q, positions [B, S], the key positions [L] that may be
seen, a window, slopes of alibi float32 [heads] -> [B, S, heads, D] of the dtype of q.
"""


def store(cache: Cache, positions: Tensor, k: Tensor, v: Tensor) -> None:
    """Write k and v [B, S, kv_heads, D] into the cache at positions [B, S], in place."""
    rows = torch.arange(k.shape[0], device=k.device)[:, None]
    cache.k.index_put_((rows, positions), quantize(k, cache.k_scale, cache.k.dtype))
    cache.v.index_put_((rows, positions), quantize(v, cache.v_scale, cache.v.dtype))


def quantize(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x [..., kv_heads, D] in units of `scale` [kv_heads] (None: as it is) -> the same shape, of `dtype`."""
    if scale is None:
        return x
    largest = (torch.finfo if dtype.is_floating_point else torch.iinfo)(dtype).max
    units = (x.float() / scale[:, None]).clamp(-largest, largest)
    return (units if dtype.is_floating_point else units.round()).to(dtype)


def dequantize(stored: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize`, up to rounding, in `dtype`."""
    return stored if scale is None else (stored.float() * scale[:, None]).to(dtype)


def attend(
    q: Tensor, cache: Cache, positions: Tensor, keys: Tensor, window: int | None, slopes: Tensor | None
) -> Tensor:
    """Softmax attention; see `Attend` for the shapes."""
    batch, used = q.shape[0], keys.shape[0]
    k, v = (
        dequantize(stored.narrow(0, 0, batch).narrow(1, 0, used), scale, q.dtype).transpose(1, 2)
        for stored, scale in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
    )
    bias = mask(positions, keys, window, q.dtype)
    if slopes is not None:
        bias = bias + alibi(slopes, positions, keys, q.dtype)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=bias, enable_gqa=True)
    return out.transpose(1, 2)


def mask(positions: Tensor, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """The mask to add to scores: 0 where a query at positions [B, S] sees a key at keys [L], -inf elsewhere.

    A query sees the keys at and before its position; with a window, the last `window` of them. -> [B, 1, S, L]
    """
    query, key = positions[:, None, :, None], keys[None, None, None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    zero = torch.zeros((), dtype=dtype, device=keys.device)
    return torch.where(seen, zero, float("-inf"))


def alibi_slopes(heads: int) -> list[float]:
    """How steeply each head's scores fall with distance (Press et al. 2022).

    A power of two of heads: 2^(-8 i / heads) for i = 1 ... heads. Otherwise those of the next lower power, then every
    second one of twice that power, as the paper's code continues the series.
    """
    whole = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / whole) for i in range(1, whole + 1)]
    return slopes + [2.0 ** (-4 * i / whole) for i in range(1, 2 * (heads - whole), 2)]


def alibi(slopes: Tensor, positions: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """Minus slope x distance, of slopes float32 [heads], positions [B, S], keys [L] -> [B, heads, S, L] of `dtype`.

    By distance instead of by key position, which softmax does not tell apart: so the nearest keys, whose scores are
    the largest, are not rounded.
    """
    distance = keys[None, None, None, :] - positions[:, None, :, None]
    return (distance * slopes[:, None, None]).to(dtype)
