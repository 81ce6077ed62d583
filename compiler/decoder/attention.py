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

import math
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
class Scores:
    """Scores of the keys that a query sees.

        score     softcap(q . k * scale) - slope * distance        softcap(s) = cap * tanh(s / cap)
        weight    exp(score) / (sum of exp(scores) + exp(sink))

    `window`: number of last positions that a query sees; `chunk`: it sees those of its own run of `chunk` positions;
    None: all up to its own. `scale` 0: 1 / sqrt(D). `softcap` 0: none. `slopes` (ALiBi) and `sinks` float32 or in the
    dtype of the model [heads], or None. `key_bias` float32 [heads, positions]: added to the scores of a key, or None.
    """

    window: int | None = None
    chunk: int | None = None
    scale: float = 0.0
    softcap: float = 0.0
    slopes: Tensor | None = None
    key_bias: Tensor | None = None
    sinks: Tensor | None = None

    @property
    def usual(self) -> bool:
        """Whether there are no chunks, no biases of keys and no sinks."""
        return not self.chunk and self.key_bias is None and self.sinks is None


Attend = Callable[[Tensor, Cache, Tensor, Tensor, Scores], Tensor]
"""q [B, S, heads, D], a cache with the keys and values of all q, positions [B, S], positions [L] of the visible keys,
scores -> [B, S, heads, D of the values] in the dtype of q.
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


def attend(q: Tensor, cache: Cache, positions: Tensor, keys: Tensor, scores: Scores) -> Tensor:
    """Softmax attention; see `Attend` for the shapes."""
    batch, used = q.shape[0], keys.shape[0]
    k, v = (
        dequantize(stored.narrow(0, 0, batch).narrow(1, 0, used), scale, q.dtype).transpose(1, 2)
        for stored, scale in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
    )
    bias = mask(positions, keys, scores, q.dtype)
    if scores.slopes is not None:
        bias = bias + alibi(scores.slopes, positions, keys, q.dtype)
    if scores.key_bias is not None:
        bias = bias + scores.key_bias[:, keys][None, :, None].to(q.dtype)
    if scores.softcap or scores.sinks is not None:
        return _written_out(q, k, v, bias, scores)
    scale = scores.scale or None
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=bias, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


def _written_out(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scores: Scores) -> Tensor:
    """Attention with soft caps or sinks, which torch's function lacks: softmax in float32.

    q [B, S, heads, D], k and v [B, kv_heads, L, D], bias [B, 1 or heads, S, L] -> [B, S, heads, D].
    """
    group = q.shape[2] // k.shape[1]
    scale = scores.scale or q.shape[-1] ** -0.5
    # the query heads of a kv head are an axis of their own, so that no key is copied
    found = torch.matmul(q.transpose(1, 2).unflatten(1, (-1, group)), k[:, :, None].transpose(-1, -2)) * scale
    found = found.float().flatten(1, 2)
    if scores.softcap:
        found = torch.tanh(found / scores.softcap) * scores.softcap
    found = found + bias.float()
    if scores.sinks is None:
        weight = found.softmax(-1)
    else:
        sink = scores.sinks.float()[None, :, None, None].expand(*found.shape[:3], 1)
        weight = torch.cat((found, sink), -1).softmax(-1)[..., :-1]
    out = torch.matmul(weight.to(v.dtype).unflatten(1, (-1, group)), v[:, :, None])
    return out.flatten(1, 2).transpose(1, 2)


def mask(positions: Tensor, keys: Tensor, scores: Scores, dtype: torch.dtype) -> Tensor:
    """Mask to add to scores, [B, 1, S, L]: 0 where a query at positions [B, S] sees a key at keys [L], else -inf.

    A query sees the keys at and before its position; with a window, the last `window` of them; with chunks, those of
    its own chunk.
    """
    query, key = positions[:, None, :, None], keys[None, None, None, :]
    seen = key <= query
    if scores.window is not None:
        seen = seen & (key > query - scores.window)
    if scores.chunk is not None:
        seen = seen & (key >= query // scores.chunk * scores.chunk)
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


def rounded_key_bias(slopes: Tensor, positions: int, head_dim: int) -> Tensor:
    """Bias of keys by position, float32 [heads, positions], from slopes float32 [heads]: `rounded_keys` of ModelConfig.

    The rounding is that of transformers' Falcon (build_alibi_tensor), with which these models were trained. Compiled
    code may round less, so this is a table.
    """
    keys = torch.arange(positions, device=slopes.device)
    rounded = slopes.bfloat16()[:, None] * keys
    bias: Tensor = rounded.float() / math.sqrt(head_dim)
    return bias


def alibi(slopes: Tensor, positions: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """ALiBi bias, -slope x distance: slopes float32 [heads], positions [B, S], keys [L] -> `dtype` [B, heads, S, L].

    Softmax gives the same for the bias by key position; by distance, the nearest keys, whose scores are the largest,
    have small biases that rounding keeps.
    """
    distance = keys[None, None, None, :] - positions[:, None, :, None]
    return (distance * slopes[:, None, None]).to(dtype)
