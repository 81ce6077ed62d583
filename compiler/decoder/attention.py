"""Grouped-query attention over a static cache, with a position of its own for every token.

A cache tensor [Bmax, T, kv_heads, D] is allocated once. Tokens write their k and v at (row, position); queries then see
the first L positions of each row, masked to those at or before their own. So rows of different length share a step, and
what stands in the cache behind a row's position never matters (it must be finite: zeros at first).

    kv head h serves query heads h * group ... (h + 1) * group - 1, with group = heads / kv_heads
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def store(cache: Tensor, positions: Tensor, new: Tensor) -> None:
    """Write new [B, S, kv_heads, D] into cache [Bmax, T, kv_heads, D] at positions [B, S], in place."""
    rows = torch.arange(new.shape[0], device=new.device)[:, None]
    cache.index_put_((rows, positions), new)


def mask(positions: Tensor, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 where a query at positions [B, S] sees a key at keys [L], -inf elsewhere.

    A query sees the keys at and before its position; with a window, the last `window` of them. -> [B, 1, S, L]
    """
    query, key = positions[:, None, :, None], keys[None, None, None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    zero = torch.zeros((), dtype=dtype, device=keys.device)
    return torch.where(seen, zero, float("-inf"))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention: q [B, S, heads, D], k and v [B, L, kv_heads, D], bias [B, 1, S, L] -> [B, S, heads, D]."""
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias, enable_gqa=True
    )
    return out.transpose(1, 2)
