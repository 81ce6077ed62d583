"""Scales of a linear layer as canonical parts (`model/roles.py`, TensorId), from maxima.

| part                     | scheme with                | value                                                 |
|--------------------------|----------------------------|-------------------------------------------------------|
| steps, scale             | scales per row or matrix   | of every row; scale of the divided row                |
| matrix_scale             | scales per matrix          | scale of all rows                                     |
| group_steps, group_scale | scales per group           | of every group of every row                           |
| input_steps              | scales per token           | 1: kernels compute their own                          |
| input_steps, input_scale | static activations         | of the smoothed input                                 |
| output_scale             | static int8 activations    | of the output                                         |
| accumulated              | static int8 activations    | of every row (`formats/int8.py`, Static)              |
| matrix_accumulated       | both, scales per matrix    | accumulated of all rows                               |

A row that smoothing divides keeps its units: only its scale is divided. Maxima are those of W * columns, before the
division.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.quantization.format import CacheUse, Values, inverse
from compiler.quantization.formats import load
from compiler.quantization.schemes import Scheme

Parts = dict[str, Values]


def one_scale(maxima: Mapping[str, Values], divisors: Mapping[str, Values], lead: int) -> dict[str, Values]:
    """Maxima [lead ..., rows ...] of layers, by role, raised such that the divided rows of all layers have one scale
    for each index of the `lead` axes.
    """
    whole = {role: largest / divisors.get(role, np.float32(1)) for role, largest in maxima.items()}
    shared = np.maximum.reduce([rows.reshape(*rows.shape[:lead], -1).max(-1) for rows in whole.values()])
    return {
        role: np.ascontiguousarray(
            np.broadcast_to(shared.reshape(shared.shape + (1,) * (rows.ndim - lead)), rows.shape)
            * divisors.get(role, np.float32(1))
        )
        for role, rows in whole.items()
    }


def weight_parts(scheme: Scheme, maxima: Values, divisor: Values | None, lead: int) -> Parts:
    """Parts of a weight from maxima [lead ..., rows ...] or [lead ..., rows ..., groups].

    `divisor` [lead ..., rows ...]; None: 1.
    """
    below = np.float32(1) if divisor is None else divisor
    form = load(scheme.weights)
    if scheme.weight_scales == "group":
        below = below if divisor is None else divisor[..., None]
        scale = rounded_up(form.scales(maxima) / below)
        return {"group_steps": inverse(scale * below), "group_scale": scale}
    parts = {"steps": form.steps(maxima), "scale": form.scales(maxima) / below}
    if scheme.weight_scales == "tensor":
        parts["matrix_scale"] = _first(parts["scale"], lead)
    return parts


def own_parts(scheme: Scheme, scales: Values) -> Parts:
    """`weight_parts` of a quantized checkpoint, from its own scales [lead ..., rows ..., groups]."""
    if scheme.weight_scales == "group":
        return {"group_steps": inverse(scales), "group_scale": scales}
    rows = np.ascontiguousarray(scales[..., 0])
    return {"steps": inverse(rows), "scale": rows}


def weight_part_names(scheme: Scheme) -> tuple[str, ...]:
    """Names of the parts in `weight_parts`."""
    if scheme.weight_scales == "group":
        return ("group_steps", "group_scale")
    return ("steps", "scale", *(("matrix_scale",) if scheme.weight_scales == "tensor" else ()))


def activation_parts(scheme: Scheme, largest_input: float, largest_output: float, weight: Parts, lead: int) -> Parts:
    """Parts of activations. `largest_*`: smoothed, over the calibration text; `weight`: `weight_parts` of the layer."""
    if scheme.activations == "float":
        return {}
    if scheme.activation_scales == "token":
        return {"input_steps": np.ones(1, np.float32)}
    use = load(scheme.activations).activations
    assert use is not None, scheme.activations
    parts = dict(use.static(largest_input, largest_output, inverse(weight["scale"])))
    if "accumulated" in parts and scheme.weight_scales == "tensor":
        parts["matrix_accumulated"] = _first(parts["accumulated"], lead)
    return parts


def activation_part_names(scheme: Scheme) -> tuple[str, ...]:
    """Names of the parts in `activation_parts`."""
    if scheme.activations == "float":
        return ()
    if scheme.activation_scales == "token":
        return ("input_steps",)
    use = load(scheme.activations).activations
    assert use is not None, scheme.activations
    whole = "accumulated" in use.static_parts and scheme.weight_scales == "tensor"
    return (*use.static_parts, *(("matrix_accumulated",) if whole else ()))


def cache_scale(use: CacheUse, largest: Sequence[Values]) -> Values:
    """Scale [1] of a layer's cache, from the largest magnitudes of keys and values."""
    scale = use.layer_scale(max(float(values.max()) for values in largest))
    return np.full(1, max(scale, np.finfo(np.float32).tiny), np.float32)


def head_cache_scales(use: CacheUse, largest: Values) -> Values:
    """Scale of every head [kv_heads], from largest magnitudes [kv_heads, head_dim]."""
    found: Values = np.maximum(use.head_scales(largest.max(-1)), np.finfo(np.float32).tiny, dtype=np.float32)
    return found


def rounded_up(values: Values) -> Values:
    """Round up to 8 significant bits: exact in bfloat16, and in the range of float16.

    Weights are divided by the rounded scale, so that storing it in such a dtype loses nothing; up, so that no weight is
    clipped.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


def _first(rows: Values, lead: int) -> Values:
    """Common value of all rows: [lead ..., rows ...] -> [lead ..., 1]."""
    return np.ascontiguousarray(rows.reshape(*rows.shape[:lead], -1)[..., :1])
