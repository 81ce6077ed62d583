"""Grouped-query attention over a static cache; every token has its own position.

A cache tensor [Bmax, T, kv_heads, D] is allocated once. Tokens write their k and v at (row, position); queries then see
the first L positions of each row, masked to those at or before their own. So rows of different length share a step, and
cache entries after a row's position never matter (they must be finite: zeros at first).

    kv head h serves query heads h * group ... (h + 1) * group - 1, with group = heads / kv_heads

A quantized cache holds k and v in units of their scales; a kv head has one scale for its keys, one for its values:

    unit   k / scale, clamped to the range of the format, rounded

Queries see the rounded values, those of their own step included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.quantization.formats import load


def cache_dtype(form: str) -> torch.dtype:
    """Torch dtype of a cache in the number format named `form`."""
    found: torch.dtype = getattr(torch, load(form).torch_dtype)
    return found


@dataclass(frozen=True)
class Cache:
    """Keys and values of a layer, each [Bmax, T, kv_heads, D]: in a `cache_dtype` with scales float32 [kv_heads], or in
    the dtype of the model without (None).
    """

    k: Tensor
    v: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None


@dataclass(frozen=True)
class Scoring:
    """Scores of keys, before ALiBi: softcap * tanh(q . k * scale / softcap) for the last `window` positions.

    `window` None: all positions. `scale` None: D ** -0.5. `softcap` 0: q . k * scale.
    """

    window: int | None = None
    scale: float | None = None
    softcap: float = 0.0


Attend = Callable[[Tensor, Cache, Tensor, Tensor, Scoring, Tensor | None], Tensor]
"""q [B, S, heads, D], a cache with the keys and values of all q, positions [B, S], positions [L] of the visible keys,
scoring, ALiBi slopes float32 [heads] -> [B, S, heads, D] in the dtype of q.
"""


def store(cache: Cache, positions: Tensor, k: Tensor, v: Tensor) -> None:
    """Write k and v [B, S, kv_heads, D] into the cache at positions [B, S], in place."""
    rows = torch.arange(k.shape[0], device=k.device)[:, None]
    cache.k.index_put_((rows, positions), quantize(k, cache.k_scale, cache.k.dtype))
    cache.v.index_put_((rows, positions), quantize(v, cache.v_scale, cache.v.dtype))


def quantize(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x [..., kv_heads, D] in units of `scale` [kv_heads], cast to `dtype`; unchanged where `scale` is None."""
    if scale is None:
        return x
    largest = (torch.finfo if dtype.is_floating_point else torch.iinfo)(dtype).max
    units = (x.float() / scale[:, None]).clamp(-largest, largest)
    return (units if dtype.is_floating_point else units.round()).to(dtype)


def dequantize(stored: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Inverse of `quantize`, up to rounding, in `dtype`."""
    return stored if scale is None else (stored.float() * scale[:, None]).to(dtype)


def attend(q: Tensor, cache: Cache, positions: Tensor, keys: Tensor, scoring: Scoring, slopes: Tensor | None) -> Tensor:
    """Softmax attention; see `Attend` for the shapes."""
    batch, used = q.shape[0], keys.shape[0]
    k, v = (
        dequantize(stored.narrow(0, 0, batch).narrow(1, 0, used), scale, q.dtype).transpose(1, 2)
        for stored, scale in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
    )
    bias = mask(positions, keys, scoring.window, q.dtype)
    if slopes is not None:
        bias = bias + alibi(slopes, positions, keys, q.dtype)
    if scoring.softcap:
        return _capped(q.transpose(1, 2), k, v, bias, scoring).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=bias, enable_gqa=True, scale=scoring.scale
    )  # fmt: skip
    return out.transpose(1, 2)


def _capped(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scoring: Scoring) -> Tensor:
    """Attention with a softcap: q [B, heads, S, D], k and v [B, kv_heads, L, D], bias [B, 1 or heads, S, L]. Softmax is
    in float32.
    """
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    scale = q.shape[-1] ** -0.5 if scoring.scale is None else scoring.scale
    scores = (q @ k.transpose(-1, -2)).float() * scale
    scores = torch.tanh(scores / scoring.softcap) * scoring.softcap + bias
    return scores.softmax(-1).to(q.dtype) @ v


def mask(positions: Tensor, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """Mask to add to scores, [B, 1, S, L]: 0 where a query at positions [B, S] sees a key at keys [L], else -inf.

    A query sees the keys at and before its position; with a window, the last `window` of them.
    """
    query, key = positions[:, None, :, None], keys[None, None, None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    zero = torch.zeros((), dtype=dtype, device=keys.device)
    return torch.where(seen, zero, float("-inf"))


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi slope of each head: how steeply its scores fall with distance (Press et al. 2022).

    2^(-8 i / heads) for i = 1 ... heads, where heads is a power of two. Otherwise the slopes of the next lower power,
    then every second slope of twice that power, as in the paper's code.
    """
    whole = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / whole) for i in range(1, whole + 1)]
    return slopes + [2.0 ** (-4 * i / whole) for i in range(1, 2 * (heads - whole), 2)]


def alibi(slopes: Tensor, positions: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """ALiBi bias, -slope x distance: slopes float32 [heads], positions [B, S], keys [L] -> `dtype` [B, heads, S, L].

    Softmax gives the same for the bias by key position; by distance, the nearest keys, whose scores are the largest,
    have small biases that rounding keeps.
    """
    distance = keys[None, None, None, :] - positions[:, None, :, None]
    return (distance * slopes[:, None, None]).to(dtype)
