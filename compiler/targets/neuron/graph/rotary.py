"""Rotary positions in a graph: frequencies are constants, angles float32, cosines and sines in the model's dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jax import lax

from compiler.decoder.rotary import frequencies
from compiler.targets.neuron.graph.elementary import cast, spread, times

if TYPE_CHECKING:
    import jax

    from compiler.model.config import ModelConfig, Rope

    Turn = tuple[jax.Array, jax.Array]


def turns(config: ModelConfig, rope: Rope, positions: jax.Array, dtype: np.dtype) -> Turn:
    """Cosines and sines [batch, tokens, rotary_dim / 2] of positions [batch, tokens], for layers with this `rope`."""
    if rope == "local" and config.local_rope_theta is not None:
        config = replace(config, rope_theta=config.local_rope_theta, rope_scaling=None)
    constants = np.asarray(frequencies(config).numpy(), np.float32)
    shape = (*positions.shape, len(constants))
    angles = lax.mul(spread(cast(positions, constants.dtype), shape, (0, 1)), spread(constants, shape, (2,)))
    factor = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    return cast(times(lax.cos(angles), factor), dtype), cast(times(lax.sin(angles), factor), dtype)


def rotate(config: ModelConfig, x: jax.Array, turn: Turn) -> jax.Array:
    """x [batch, tokens, heads, head_dim] with its first `rotary_dim` elements turned (`compiler.decoder.rotary`)."""
    half = turn[0].shape[-1]
    pairs = (*x.shape[:-1], half)
    cos, sin = (spread(one, pairs, (0, 1, 3)) for one in turn)
    turning, rest = _last(x, 0, 2 * half), _last(x, 2 * half, x.shape[-1])
    if config.rotary == "half":
        a, b = _last(turning, 0, half), _last(turning, half, 2 * half)
    else:
        a, b = _last(turning, 0, 2 * half, 2), _last(turning, 1, 2 * half, 2)
    turned = (lax.sub(lax.mul(a, cos), lax.mul(b, sin)), lax.add(lax.mul(b, cos), lax.mul(a, sin)))
    if config.rotary == "half":
        y = lax.concatenate(turned, 3)
    else:
        y = lax.reshape(lax.concatenate([lax.reshape(one, (*pairs, 1)) for one in turned], 4), turning.shape)
    return lax.concatenate((y, rest), 3) if rest.shape[-1] else y


def _last(x: jax.Array, start: int, stop: int, step: int = 1) -> jax.Array:
    """Elements start, start + step ... of the last axis of x, before `stop`."""
    return lax.slice_in_dim(x, start, stop, step, axis=x.ndim - 1)
