"""Attention of one rank: projections, the exchanges of its strategy (`heads.py`), cache, scores, output projection.

    strategy            after the projections                                        before the output projection
    shard-over-heads    -                                                            -
    replicated-heads    -                                                            -
    all-gather-heads    k, v: all-gather of columns within a group                   -
    shard-over-batch    q, k, v: all-to-all, rows apart and columns together         all-to-all back
    over the sequence   q: all-gather of the group's heads, in decode steps          sums of the parts, of which each
                                                                                     rank keeps its own heads

A prompt attends to its own keys; a decode step to the cache, its own key included. Scores and softmax are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jax import lax

from compiler.targets.neuron.graph.caches import (
    INDEX,
    own_positions,
    own_slots,
    slot_positions,
    write_prompt,
    write_tokens,
)
from compiler.targets.neuron.graph.collectives import all_gather, all_reduce, all_to_all, everyone, reduce_scatter
from compiler.targets.neuron.graph.elementary import MASKED, cast, full, normalize, softcap, softmax, spread, times
from compiler.targets.neuron.graph.linear import dot, linear
from compiler.targets.neuron.graph.rotary import rotate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax

    from compiler.model.config import LayerKind, Rope
    from compiler.targets.neuron.graph.linear import Weights
    from compiler.targets.neuron.graph.rotary import Turn
    from compiler.targets.neuron.graph.signature import GraphSpec
    from compiler.targets.neuron.plan import NeuronPlan

    Pair = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class GraphStep:
    """Values that all layers of a graph share. `positions` [rows, tokens]: of the rows whose attention this rank
    computes; `row` [1]: cache row of a prompt with continuous batching, else None; `rank` [1]: None where not needed.
    """

    plan: NeuronPlan
    spec: GraphSpec
    positions: jax.Array
    row: jax.Array | None
    rank: jax.Array | None
    turns: Mapping[Rope, Turn]

    @property
    def own_rank(self) -> jax.Array:
        """Number of the rank, [1]: for graphs that need it."""
        assert self.rank is not None, "the plan says that graphs need no rank"
        return self.rank


def attention(step: GraphStep, kind: LayerKind, weights: Weights, x: jax.Array, cache: Pair) -> tuple[jax.Array, Pair]:
    """x [batch, tokens, hidden], normalized -> the rank's summand of the same shape, and the caches of k and v."""
    config = step.plan.config
    q, k, v = _heads(step, weights, x)
    if config.qk_norm and config.qk_norm_over == "head_dim":
        q, k = (
            normalize(config.norm, one, weights[f"attn.{name}_norm.weight"], None, config.norm_eps)
            for name, one in (("q", q), ("k", k))
        )
    if (turn := step.turns.get(kind.rope)) is not None:
        q, k = rotate(config, q, turn), rotate(config, k, turn)
        if config.qk_norm and config.qk_norm_over == "rotated":
            q, k = (normalize("rms", one, None, None, config.norm_eps) for one in (q, k))
    if step.spec.kind == "context":
        cache = _write_prompt(step, cache, (k, v))
        y = _attend(step, kind, q, (k, v), ((0, 2), (0, 2)), None)
    elif step.plan.heads.sequence_shards > 1:
        cache = _write_tokens(step, cache, (k, v))
        y = _attend_in_parts(step, kind, q, cache)
    else:
        cache = _write_tokens(step, cache, (k, v))
        used = tuple(_used(one, step.spec.bucket, q.shape[0]) for one in cache)
        y = _attend(step, kind, q, (used[0], used[1]), ((0, 2), (1, 2)), lax.iota(INDEX, step.spec.bucket))
    return linear(weights, "attn.o", _columns(step, y)), cache


def _heads(step: GraphStep, weights: Weights, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k and v [rows, tokens, local heads, head_dim] that this rank attends with."""
    plan = step.plan
    found = []
    for role, heads in (
        ("q", plan.heads.local_heads),
        ("k", plan.heads.local_kv_heads),
        ("v", plan.heads.local_kv_heads),
    ):
        y = linear(weights, f"attn.{role}", x)
        if plan.config.clip_qkv:
            y = lax.clamp(np.array(-plan.config.clip_qkv, y.dtype), y, np.array(plan.config.clip_qkv, y.dtype))
        if plan.heads.batch_shards > 1:
            y = all_to_all(y, everyone(plan.tp), 0, 2)
        elif role != "q" and plan.heads.strategy == "all-gather-heads" and plan.heads.kv_groups:
            y = all_gather(y, plan.heads.kv_groups, 2)
        found.append(lax.reshape(y, (*y.shape[:2], heads, plan.config.head_dim)))
    return found[0], found[1], found[2]


def _columns(step: GraphStep, y: jax.Array) -> jax.Array:
    """Input of the output projection [batch, tokens, columns], from [rows, tokens, heads, head_dim]."""
    flat = lax.reshape(y, (*y.shape[:2], y.shape[2] * y.shape[3]))
    return all_to_all(flat, everyone(step.plan.tp), 2, 0) if step.plan.heads.batch_shards > 1 else flat


def _write_prompt(step: GraphStep, cache: Pair, kv: Pair) -> Pair:
    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        own = new if step.plan.heads.sequence_shards == 1 else own_positions(step.plan, new, step.own_rank)
        return write_prompt(old, own, step.row)

    return write(cache[0], kv[0]), write(cache[1], kv[1])


def _write_tokens(step: GraphStep, cache: Pair, kv: Pair) -> Pair:
    slots = lax.reshape(step.positions, (step.positions.shape[0],))
    if step.plan.heads.sequence_shards > 1:
        slots = own_slots(step.plan, slots, step.own_rank)

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        return write_tokens(old, lax.reshape(new, (new.shape[0], *new.shape[2:])), slots)

    return write(cache[0], kv[0]), write(cache[1], kv[1])


def _used(cache: jax.Array, positions: int, rows: int) -> jax.Array:
    """The first positions and rows of a cache."""
    return lax.slice(cache, (0, 0, 0, 0), (positions, min(rows, cache.shape[1]), *cache.shape[2:]))


def _scores(step: GraphStep, kind: LayerKind, q: jax.Array, k: jax.Array, axes: tuple[tuple[int, ...], tuple[int, ...]],
            keys: jax.Array | None) -> jax.Array:  # fmt: skip
    """Masked scores float32 [rows, kv heads, tokens, group, keys]; arguments as of `_attend`."""
    config, heads = step.plan.config, axes[1][1]
    rows, tokens, _, dim = q.shape
    grouped = lax.reshape(q, (rows, tokens, k.shape[heads], q.shape[2] // k.shape[heads], dim))
    scores = dot(grouped, k, ((4,), (3,)), axes)
    scores = softcap(times(scores, config.attention_scale or config.head_dim**-0.5), config.attention_softcap)
    shape = (rows, tokens, scores.shape[-1])
    if keys is None:
        query, key = lax.broadcasted_iota(INDEX, shape, 1), lax.broadcasted_iota(INDEX, shape, 2)
    else:
        query, key = spread(step.positions, shape, (0, 1)), spread(keys, shape, (2,))
    seen = lax.le(key, query)
    if kind.window is not None:
        seen = lax.bitwise_and(seen, lax.gt(key, lax.sub(query, full(query, kind.window))))
    return lax.select(spread(seen, scores.shape, (0, 2, 4)), scores, full(scores, MASKED))


def _attend(step: GraphStep, kind: LayerKind, q: jax.Array, kv: Pair, axes: tuple[tuple[int, ...], tuple[int, ...]],
            keys: jax.Array | None) -> jax.Array:  # fmt: skip
    """Attention of q [rows, tokens, heads, head_dim] -> the same shape. `axes`: those of rows and kv heads, of q with
    its heads grouped, and of keys and values; `keys`: position of each key, None: those of the tokens themselves.
    """
    weights = cast(softmax(_scores(step, kind, q, kv[0], axes, keys)), q.dtype)
    y = dot(weights, kv[1], ((4,), (1 - axes[1][0],)), ((0, 1), axes[1]))
    return cast(lax.reshape(lax.transpose(y, (0, 2, 1, 3, 4)), q.shape), q.dtype)


def _attend_in_parts(step: GraphStep, kind: LayerKind, q: jax.Array, cache: Pair) -> jax.Array:
    """Attention over a cache that a group of ranks holds in parts: each computes the group's heads over its part."""
    plan, groups = step.plan, step.plan.heads.kv_groups
    every = all_gather(q, groups, 2)
    slots = -(-step.spec.bucket // plan.heads.sequence_shards)
    k, v = (_used(one, slots, q.shape[0]) for one in cache)
    scores = _scores(step, kind, every, k, ((0, 2), (1, 2)), slot_positions(plan, slots, step.own_rank))
    kept = (*scores.shape[:-1], 1)
    most = all_reduce(lax.reshape(lax.reduce_max(scores, (4,)), kept), groups, "maximum")
    weights = lax.exp(lax.sub(scores, spread(most, scores.shape, range(5))))
    total = lax.reshape(lax.reduce_sum(weights, (4,)), kept)
    y = dot(cast(weights, q.dtype), v, ((4,), (0,)), ((0, 1), (1, 2)))
    # one exchange for numerators and denominators: [rows, tokens, heads, head_dim + 1]
    both = lax.transpose(lax.concatenate((y, total), 4), (0, 2, 1, 3, 4))
    summed = reduce_scatter(lax.reshape(both, (*every.shape[:3], both.shape[4])), groups, 2)
    dim = q.shape[3]
    above, below = (lax.slice_in_dim(summed, a, b, axis=3) for a, b in ((0, dim), (dim, dim + 1)))
    return cast(lax.div(above, spread(below, above.shape, range(4))), q.dtype)
