"""Distribution of attention heads and of other named axes over tensor-parallel ranks.

Query heads split evenly. With `kv_heads >= tp` so do the kv heads; with fewer, tp / kv_heads consecutive ranks hold a
copy of each kv head, so that rank r holds kv head floor(r * kv_heads / tp), the one that its query heads read:

    heads 8, kv_heads 2      rank 0     1     2     3     4     5     6     7
    tp 2     q               0-3   4-7
             kv              0     1
    tp 4     q               0-1   2-3   4-5   6-7
             kv              0     0     1     1
    tp 8     q               0     1     2     3     4     5     6     7
             kv              0     0     0     0     1     1     1     1
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.errors import ParallelError
from compiler.model.config import ModelConfig
from compiler.model.ops import Pad, Program, Repeat, Replicate, Shard


@dataclass(frozen=True)
class HeadLayout:
    """Number of query and kv heads on one rank, and number of ranks with a copy of each kv head."""

    heads: int
    kv_heads: int
    kv_copies: int


def head_layout(heads: int, kv_heads: int, tp: int) -> HeadLayout:
    """Split `heads` query heads and `kv_heads` kv heads over `tp` ranks.

    Raises:
        ParallelError: the heads do not divide; the message names the tp values that work.
    """
    if not _heads_split(heads, kv_heads, tp):
        works = [n for n in range(1, heads + 1) if _heads_split(heads, kv_heads, n)]
        raise ParallelError(
            f"tp {tp} cannot split {heads} query heads and {kv_heads} kv heads",
            hint=f"`--tp` is one of {', '.join(map(str, works))} for this model.",
        )
    return HeadLayout(heads // tp, max(kv_heads // tp, 1), max(tp // kv_heads, 1))


def _heads_split(heads: int, kv_heads: int, tp: int) -> bool:
    return tp >= 1 and heads % tp == 0 and (kv_heads % tp == 0 or tp % kv_heads == 0)


def cache_shapes(config: ModelConfig, heads: HeadLayout) -> dict[str, tuple[int, int]]:
    """Heads and elements of a head that one rank caches for a token of a layer, by the decoder's name of the cache.

    Latent attention has one cache of one latent, the same on every rank.
    """
    if config.kv_rank:
        return {"cache_k": (1, config.kv_rank + config.rotary_dim)}
    return dict.fromkeys(("cache_k", "cache_v"), (heads.kv_heads, config.head_dim))


def cache_bytes(config: ModelConfig, heads: HeadLayout, stages: int, itemsize: int) -> int:
    """Bytes that one rank caches for a token, in the largest of `stages` pipeline stages."""
    elements = sum(count * dim for count, dim in cache_shapes(config, heads).values())
    return -(-config.layers // stages) * elements * itemsize


def padded(size: int, parts: int) -> int:
    """Smallest multiple of `parts` that is at least `size`."""
    return -(-size // parts) * parts


SPLIT_AXES = ("heads", "kv_heads", "ffn", "moe_ffn", "shared_ffn", "vocab")
"""Axes that tensor parallelism splits; a role has at most one of them."""


def spread(axes: tuple[str, ...], config: ModelConfig, tp: int) -> Program:
    """Program that splits a canonical tensor into `tp` shards along its split axis, or copies it to all ranks.

    Raises ParallelError where `tp` does not divide the heads.
    """
    for position, axis in enumerate(axes):
        if axis == "vocab":
            return (Pad(position, config.vocab, padded(config.vocab, tp)), Shard(position, tp))
        if axis in ("heads", "kv_heads"):
            copies = head_layout(config.heads, config.kv_heads, tp).kv_copies
            return (Repeat(position, copies), Shard(position, tp)) if axis == "kv_heads" else (Shard(position, tp),)
        if axis in SPLIT_AXES:
            return (Shard(position, tp),)
    return (Replicate(tp),)


def check_parallel(config: ModelConfig, tp: int) -> None:
    """Check that `tp` can split the model. Raises ParallelError, whose hint has the values that can."""
    works = [n for n in range(1, config.heads + 1) if not _problems(config, n)]
    problems = _problems(config, tp)
    if problems:
        raise ParallelError(
            f"tp {tp} cannot split this model: {'; '.join(problems)}",
            hint=f"`--tp` is one of {', '.join(map(str, works))} for this model.",
        )


def largest_parallel(config: ModelConfig, devices: int) -> int:
    """Largest tp up to `devices` that can split the model (`--tp max`)."""
    return max(n for n in range(1, max(devices, 1) + 1) if not _problems(config, n))


def _problems(config: ModelConfig, tp: int) -> list[str]:
    problems = []
    if not _heads_split(config.heads, config.kv_heads, tp):
        problems.append(f"{config.heads} query heads and {config.kv_heads} kv heads")
    kinds = {kind.mlp for kind in config.layer_kinds}
    widths = {
        "mlp width": config.ffn if kinds & {"gated", "plain"} else 0,
        "expert width": config.moe_ffn if "moe" in kinds else 0,
        "shared expert width": config.shared_ffn,
    }
    problems += [f"{name} {width}" for name, width in widths.items() if tp < 1 or width % tp]
    return problems
