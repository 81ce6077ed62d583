"""Writes into the KV cache [positions, rows, kv heads, head_dim] of one layer on one rank.

A prompt is one block of the cache: positions 0 ... T - 1 of its rows. A decode step scatters one position per row. A
cache that is split over the sequence among n ranks holds position p in slot p / n of rank p mod n of the group: every
bucket is divided equally. In a decode step the other ranks write into their last slot, which no query reads: an index
beyond the cache is a run-time error on NeuronCores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jax import lax
from jax.lax import GatherDimensionNumbers, GatherScatterMode, ScatterDimensionNumbers

from compiler.targets.neuron.graph.elementary import cast, full, spread

if TYPE_CHECKING:
    import jax

    from compiler.targets.neuron.plan import NeuronPlan

INDEX = np.dtype(np.int32)


def write_prompt(cache: jax.Array, x: jax.Array, row: jax.Array | None) -> jax.Array:
    """Cache with x [batch, T, kv heads, head_dim] at slots 0 ... T - 1 of `row` [1]; None: of rows 0 ... batch - 1."""
    block = lax.transpose(x, (1, 0, 2, 3))
    zero = lax.full((), 0, INDEX)
    start = zero if row is None else lax.reshape(row, ())
    return lax.dynamic_update_slice(cache, block, (zero, start, zero, zero), allow_negative_indices=False)


def write_tokens(cache: jax.Array, x: jax.Array, slots: jax.Array) -> jax.Array:
    """Cache with x [batch, kv heads, head_dim] at `slots` [batch] of rows 0 ... batch - 1."""
    rows = lax.iota(INDEX, slots.shape[0])
    indices = lax.concatenate([lax.reshape(one, (slots.shape[0], 1)) for one in (slots, rows)], 1)
    numbers = ScatterDimensionNumbers((1, 2), (0, 1), (0, 1))
    mode = GatherScatterMode.PROMISE_IN_BOUNDS
    return lax.scatter(cache, indices, x, numbers, unique_indices=True, mode=mode)


def take(x: jax.Array, indices: jax.Array, axis: int) -> jax.Array:
    """Elements `indices` [n] of one axis of x, which become its elements."""
    offset = tuple(i for i in range(x.ndim) if i != axis)
    numbers = GatherDimensionNumbers(offset, (axis,), (axis,))
    sizes = tuple(1 if i == axis else size for i, size in enumerate(x.shape))
    column = lax.reshape(indices, (indices.shape[0], 1))
    return lax.gather(x, column, numbers, sizes, mode=GatherScatterMode.PROMISE_IN_BOUNDS)


def member(plan: NeuronPlan, rank: jax.Array) -> jax.Array:
    """Index [1] of a rank in its group of a cache that is split over the sequence."""
    shards = full(rank, plan.heads.sequence_shards)
    return lax.sub(rank, lax.mul(lax.div(rank, shards), shards))


def own_positions(plan: NeuronPlan, x: jax.Array, rank: jax.Array) -> jax.Array:
    """Positions of x [batch, T, ...] that this rank caches, in the order of its slots; zeros for those beyond T."""
    shards = plan.heads.sequence_shards
    slots = -(-x.shape[1] // shards)
    if beyond := slots * shards - x.shape[1]:
        x = lax.concatenate((x, lax.full((x.shape[0], beyond, *x.shape[2:]), 0, x.dtype)), 1)
    runs = lax.reshape(x, (x.shape[0], slots, shards, *x.shape[2:]))
    return lax.reshape(take(runs, member(plan, rank), 2), (x.shape[0], slots, *x.shape[2:]))


def own_slots(plan: NeuronPlan, positions: jax.Array, rank: jax.Array) -> jax.Array:
    """Slot of each of `positions` [batch] on this rank; the last slot for positions of other ranks."""
    shards = full(positions, plan.heads.sequence_shards)
    slots = lax.div(positions, shards)
    found = lax.sub(positions, lax.mul(slots, shards))
    mine = lax.eq(found, spread(member(plan, rank), positions.shape, (0,)))
    return lax.select(mine, slots, full(positions, plan.cache_positions - 1))


def slot_positions(plan: NeuronPlan, slots: int, rank: jax.Array) -> jax.Array:
    """Position that each of the first `slots` slots of this rank holds, [slots]."""
    first = lax.mul(lax.iota(INDEX, slots), lax.full((slots,), plan.heads.sequence_shards, INDEX))
    return lax.add(first, spread(cast(member(plan, rank), INDEX), (slots,), (0,)))
