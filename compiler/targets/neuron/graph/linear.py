"""Products with weights. A weight is [out, in], as in the shards; one of int8 has a float32 scale for each row.

int8    cast(cast(W, dtype of x) x) * scale        the product in float32, as transformers-neuronx scales it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jax import lax

from compiler.targets.neuron.graph.elementary import along_last, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jax

    Weights = Mapping[str, jax.Array]

WIDE = np.dtype(np.float32)


def linear(weights: Weights, role: str, x: jax.Array) -> jax.Array:
    """x [..., in] times the weight `role`, plus its bias if any -> [..., out] in the dtype of x."""
    y = product(weights, role, x)
    bias = weights.get(f"{role}.bias")
    if bias is not None:
        y = lax.add(y, along_last(cast(bias, WIDE), y.shape))
    return cast(y, x.dtype)


def product(weights: Weights, role: str, x: jax.Array) -> jax.Array:
    """x [..., in] times the weight `role` [out, in], or [experts, out, in] -> float32 [..., (experts,) out]."""
    weight, scale = weights[f"{role}.weight"], weights.get(f"{role}.scale")
    y = dot(x, cast(weight, x.dtype), ((x.ndim - 1,), (weight.ndim - 1,)))
    if scale is None:
        return y
    return lax.mul(y, lax.broadcast_in_dim(scale, y.shape, range(y.ndim - scale.ndim, y.ndim)))


def dot(
    a: jax.Array,
    b: jax.Array,
    contracted: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
) -> jax.Array:
    """Product of two arrays with float32 sums: batch axes, then the others of a, then those of b."""
    return lax.dot_general(a, b, (contracted, batch), preferred_element_type=WIDE)
