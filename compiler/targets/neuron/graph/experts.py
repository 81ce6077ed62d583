"""Mixture of experts on one rank: every expert of the rank computes all tokens, and a token's share of an expert that
it did not choose is 0, as in transformers-neuronx. No token is sorted or moved, so shapes are static.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jax import lax

from compiler.targets.neuron.graph.caches import INDEX
from compiler.targets.neuron.graph.elementary import activate, cast, full, softmax, spread, times, wide
from compiler.targets.neuron.graph.linear import WIDE, dot, product

if TYPE_CHECKING:
    import jax

    from compiler.model.config import ModelConfig
    from compiler.targets.neuron.graph.linear import Weights
    from compiler.targets.neuron.plan import NeuronPlan


def experts(plan: NeuronPlan, weights: Weights, x: jax.Array, rank: jax.Array) -> jax.Array:
    """x [batch, tokens, hidden] -> the rank's summand of the same shape and dtype."""
    config = plan.config
    tokens = lax.reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))
    logits = wide(cast(product(weights, "moe.router", tokens), x.dtype))
    mine = dot(shares(config, logits), held(plan, rank), ((1,), (1,)))
    gate, up = (cast(product(weights, role, tokens), x.dtype) for role in ("moe.gate", "moe.up"))
    inner = lax.mul(activate(config.activation, gate), up)
    # [experts, tokens, hidden]: each expert's own rows of `inner`
    y = dot(inner, cast(weights["moe.down.weight"], x.dtype), ((2,), (2,)), ((1,), (0,)))
    if (scale := weights.get("moe.down.scale")) is not None:
        y = lax.mul(y, spread(scale, y.shape, (0, 2)))
    y = wide(cast(y, x.dtype))
    total = lax.reduce_sum(lax.mul(y, spread(mine, y.shape, (1, 0))), (0,))
    return cast(lax.reshape(total, x.shape), x.dtype)


def shares(config: ModelConfig, logits: jax.Array) -> jax.Array:
    """Router logits float32 [tokens, experts] -> share of each expert, 0 where a token does not choose it.

    The best expert is found and left out, `experts_per_token` times: sorting is not among the operations of a graph.
    Among equal scores the first expert is chosen.
    """
    scores = softmax(logits)
    left, total = scores, full(scores, 0.0)
    order = lax.broadcasted_iota(INDEX, scores.shape, 1)
    for _ in range(config.experts_per_token):
        best = lax.eq(left, spread(lax.reduce_max(left, (1,)), left.shape, (0,)))
        first = lax.reduce_min(lax.select(best, order, full(order, config.experts)), (1,))
        chosen = lax.eq(order, spread(first, order.shape, (0,)))
        total = lax.select(chosen, scores, total)
        left = lax.select(chosen, full(left, -1.0), left)
    if config.renormalize_experts:
        total = lax.div(total, spread(lax.reduce_sum(total, (1,)), total.shape, (0,)))
    return times(total, config.routed_scale)


def held(plan: NeuronPlan, rank: jax.Array) -> jax.Array:
    """Float32 [experts of the rank, experts]: 1 where the rank's expert is that of the model."""
    here, everywhere, sharing = plan.experts_per_rank, plan.config.experts, plan.tp // plan.expert_ranks
    shape = (here, everywhere)
    index = np.arange(everywhere, dtype=INDEX)
    first = spread(index // here * sharing, shape, (1,))
    ranks = spread(lax.reshape(rank, ()), shape, ())
    inside = lax.bitwise_and(lax.ge(ranks, first), lax.lt(ranks, lax.add(first, full(first, sharing))))
    place = lax.eq(lax.broadcasted_iota(INDEX, shape, 0), spread(index % here, shape, (1,)))
    return cast(lax.bitwise_and(inside, place), WIDE)
