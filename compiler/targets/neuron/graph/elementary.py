"""Elementary functions of a layer, in operations that neuronx-cc's XLA front end has: see `lint.ALLOWED`.

Only primitives of `jax.lax` are called: functions of `jax.numpy` and `jax.nn` may lower to calls of helper functions,
and some fill with NaN. Rounding follows the decoder (`compiler.decoder.norm`): statistics and softmax in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compiler.model.config import Activation, Norm

MASKED = -30000.0
"""Score of a key that a query does not see, as in transformers-neuronx: finite in float16, and 0 after the softmax."""

_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_SCALE = 0.3275911
"""Coefficients of the error function, absolute error at most 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26)."""


def full(like: jax.Array, value: float) -> jax.Array:
    """Array of one value in the shape and dtype of `like`."""
    return lax.full(like.shape, np.array(value, like.dtype), like.dtype)


def spread(x: jax.Array, shape: Sequence[int], axes: Sequence[int]) -> jax.Array:
    """x broadcast to `shape`; `axes`: the axis of the result for each axis of x."""
    return lax.broadcast_in_dim(x, tuple(shape), tuple(axes))


def along_last(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Vector x broadcast along all axes of `shape` but the last."""
    return spread(x, shape, (len(shape) - 1,))


def times(x: jax.Array, factor: float) -> jax.Array:
    """x times a number, rounded to the dtype of x; x itself for 1."""
    return x if factor == 1.0 else lax.mul(x, full(x, factor))


def cast(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """x in `dtype`; x itself where it has it."""
    return x if x.dtype == dtype else lax.convert_element_type(x, dtype)


def wide(x: jax.Array) -> jax.Array:
    """x in float32."""
    return cast(x, np.dtype(np.float32))


def mean(x: jax.Array) -> jax.Array:
    """Mean over the last axis of x float32 [..., n], kept as an axis of size 1."""
    total = lax.reduce_sum(x, (x.ndim - 1,))
    return lax.reshape(times(total, 1.0 / x.shape[-1]), (*x.shape[:-1], 1))


def normalize(kind: Norm, x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, eps: float) -> jax.Array:
    """Norm of x [..., n] over its last axis; weight and bias [n], None: without. Kinds: `compiler.decoder.norm`."""
    y = wide(x)
    if kind == "layer":
        y = lax.sub(y, spread(mean(y), y.shape, range(y.ndim)))
    square = lax.add(mean(lax.mul(y, y)), full(mean(y), eps))
    y = lax.mul(y, spread(lax.rsqrt(square), y.shape, range(y.ndim)))
    if kind == "rms":
        y = cast(y, x.dtype)
        return y if weight is None else lax.mul(along_last(weight, y.shape), y)
    if weight is not None:
        factor = wide(weight)
        y = lax.mul(y, along_last(lax.add(factor, full(factor, 1.0)) if kind == "rms_plus_one" else factor, y.shape))
    if bias is not None:
        y = lax.add(y, along_last(wide(bias), y.shape))
    return cast(y, x.dtype)


def softmax(scores: jax.Array) -> jax.Array:
    """Softmax of float32 scores over the last axis."""
    last = (scores.ndim - 1,)
    kept = (*scores.shape[:-1], 1)
    most = spread(lax.reshape(lax.reduce_max(scores, last), kept), scores.shape, range(scores.ndim))
    weights = lax.exp(lax.sub(scores, most))
    total = spread(lax.reshape(lax.reduce_sum(weights, last), kept), scores.shape, range(scores.ndim))
    return lax.div(weights, total)


def softcap(x: jax.Array, cap: float) -> jax.Array:
    """cap * tanh(x / cap); x itself for 0."""
    return times(lax.tanh(times(x, 1.0 / cap)), cap) if cap else x


def activate(kind: Activation, x: jax.Array) -> jax.Array:
    """Activation of x, computed in float32."""
    return cast(_ACTIVATIONS[kind](wide(x)), x.dtype)


def supports(kind: Activation) -> bool:
    """Whether there is such an activation here."""
    return kind in _ACTIVATIONS


def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)) of float32 x."""
    return lax.div(full(x, 1.0), lax.add(lax.exp(lax.neg(x)), full(x, 1.0)))


def _silu(x: jax.Array) -> jax.Array:
    return lax.mul(x, sigmoid(x))


def _relu(x: jax.Array) -> jax.Array:
    return lax.max(x, full(x, 0.0))


def _gelu(x: jax.Array) -> jax.Array:
    half = lax.add(times(_erf(times(x, 0.5**0.5)), 0.5), full(x, 0.5))
    return lax.mul(x, half)


def _gelu_tanh(x: jax.Array) -> jax.Array:
    cubed = lax.mul(lax.mul(x, x), times(x, 0.044715))
    inner = times(lax.add(x, cubed), (2.0 / np.pi) ** 0.5)
    return lax.mul(x, lax.add(times(lax.tanh(inner), 0.5), full(x, 0.5)))


def _erf(x: jax.Array) -> jax.Array:
    """Error function by a polynomial: HLO's own is younger than neuronx-cc's XLA."""
    size = lax.abs(x)
    t = lax.div(full(x, 1.0), lax.add(times(size, _ERF_SCALE), full(x, 1.0)))
    total = full(x, 0.0)
    for factor in reversed(_ERF):
        total = lax.mul(lax.add(total, full(x, factor)), t)
    found = lax.sub(full(x, 1.0), lax.mul(total, lax.exp(lax.neg(lax.mul(x, x)))))
    return lax.select(lax.ge(x, full(x, 0.0)), found, lax.neg(found))


_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
}
