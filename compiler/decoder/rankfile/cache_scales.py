"""Scales of a quantized cache in the rank files, one per kv head.

| file tensor                 | dtype   | shape on a rank | from                   |
|-----------------------------|---------|-----------------|------------------------|
| layers.i.attn.k.cache_scale | float32 | [kv_heads]      | cached_scale of attn.k |
| layers.i.attn.v.cache_scale | float32 | [kv_heads]      | cached_scale of attn.v |

They precede `attn.o`, and are split and copied like the kv heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.model.config import ModelConfig
from compiler.model.lazy import Lazy, RankPlan
from compiler.model.ops import run
from compiler.model.parallel import spread
from compiler.model.roles import TensorId

SCALES = {"attn.k.cache_scale": "attn.k", "attn.v.cache_scale": "attn.v"}
"""Name in a layer -> role of its heads."""


def with_cache_scales(
    plans: Sequence[RankPlan], config: ModelConfig, tensors: Mapping[TensorId, Lazy]
) -> list[RankPlan]:
    """Rank plans with the cache scales among `tensors`."""
    found: list[list[tuple[str, Lazy]]] = [[] for _ in plans]
    for of_ranks in zip(*(plan.tensors for plan in plans), strict=True):
        prefix, at, _ = of_ranks[0][0].partition("attn.o.weight")
        for name, role in SCALES.items() if at else ():
            scale = TensorId(role, "cached_scale", int(prefix.split(".")[1]))
            if scale in tensors:
                shards = run(spread(scale.axes, config, len(plans)), [tensors[scale]])
                for rank, shard in zip(found, shards, strict=True):
                    rank.append((f"{prefix}{name}", shard))
        for rank, tensor in zip(found, of_ranks, strict=True):
            rank.append(tensor)
    return [RankPlan(plan.file, tuple(names)) for plan, names in zip(plans, found, strict=True)]
