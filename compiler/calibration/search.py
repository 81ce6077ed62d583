"""Searches for the scales of columns before rounding: one for each name in `Scheme.search`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compiler.model.roles import TensorId, axis_sizes, linear_axes
from compiler.quantization import awq, smooth
from compiler.quantization.formats import load
from compiler.quantization.groups import (
    Factors,
    Maxima,
    Smooth,
    layer_factors,
    layer_means,
    layer_scales,
)
from compiler.quantization.schemes import ACTIVATION_AWARE, FEEDBACK, SMOOTH, UNSEARCHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.calibration.matrices import Reader
    from compiler.model.config import LayerKind, ModelConfig
    from compiler.quantization.format import Values
    from compiler.quantization.scaling import Scaling


SAMPLED = 1024
"""Number of rows of a matrix that a search samples: errors add up over rows."""


class Seen:
    """Statistics of one layer on the calibration text, by role."""

    def __init__(self, config: ModelConfig, layer: int, maxima: Mapping[str, Values]) -> None:
        self.config, self.layer, self._maxima = config, layer, maxima

    def __call__(self, role: str, statistic: str) -> Values:
        return self._maxima[f"layers.{self.layer}.{role}.{statistic}"]


Alphas = dict[str, float]
"""Alpha by the name of a group of layers that are smoothed together."""


def alphas(seen: Seen, kind: LayerKind, scaling: Scaling, alpha: float | None, reader: Reader) -> Alphas:
    """Alpha of every smoothed group of a layer: `alpha`, or if None the candidate with the least error."""
    if scaling.scheme.search != SMOOTH:
        return {}
    found = scaling.groups(seen.config, kind)
    return {group.name: _least(seen, scaling, group, reader) if alpha is None else alpha for group in found}


def _unsearched(
    _seen: Seen, _kind: LayerKind, _scaling: Scaling, _alphas: Alphas, _reader: Reader
) -> dict[str, Factors]:
    return {}


def _smoothed(seen: Seen, kind: LayerKind, scaling: Scaling, alphas: Alphas, _reader: Reader) -> dict[str, Factors]:
    """Factors of SmoothQuant, by the tensor's role."""
    config, found = seen.config, scaling.groups(seen.config, kind)
    scales: dict[str, Values] = {}
    for group in found:
        scales |= layer_scales(config, [group], _maxima(seen, group), alphas[group.name])
    return layer_factors(config, found, scales)[0]


def _least(seen: Seen, scaling: Scaling, group: Smooth, reader: Reader) -> float:
    """Alpha with the least output error, summed over the group's layers."""
    config, scheme = seen.config, scaling.scheme
    largest_of, formats = _LARGEST[scheme.activation_scales], (load(scheme.weights), load(scheme.activations))
    errors, columns, largest = np.zeros(len(smooth.CANDIDATES)), [], []
    for alpha in smooth.CANDIDATES:
        factors = layer_factors(config, [group], layer_scales(config, [group], _maxima(seen, group), alpha))[0]
        columns.append({role: _flat(role, whole_columns(config, role, factors[role])) for role in group.into})
        read = [(_flat(role, seen(role, "inputs")), _flat(role, seen(role, "squares"))) for role in group.into]
        each = zip(read, columns[-1].values(), strict=True)
        largest.append(max(largest_of(x, squares, s) for (x, squares), s in each))
    for role in group.into:
        lead = len(linear_axes(role)[0])
        squares = _flat(role, seen(role, "squares"))
        for place, values in reader.sampled(TensorId(role, "weight", seen.layer), SAMPLED):
            for i, of_role in enumerate(columns):
                s = of_role[role][place[:lead]]
                errors[i] += smooth.output_error(values, s, squares[place[:lead]], largest[i], *formats)
    return smooth.CANDIDATES[int(errors.argmin())]


_LARGEST = {"token": smooth.largest_of_token, "tensor": smooth.largest_of_text}
"""Functions for the largest |x / s|, by the scales of activations."""


def _maxima(seen: Seen, group: Smooth) -> dict[str, Maxima]:
    return {role: Maxima(seen(role, "inputs"), seen(role, "columns")) for role in group.into}


def _searched(seen: Seen, kind: LayerKind, scaling: Scaling, _alphas: Alphas, reader: Reader) -> dict[str, Factors]:
    """Factors of AWQ, by the tensor's role."""
    config, found = seen.config, scaling.groups(seen.config, kind)
    means = layer_means(config, found, {role: seen(role, "means") for group in found for role in group.into})
    scales = {group.name: _best(seen, scaling, group, means[group.name], reader) for group in found}
    return layer_factors(config, found, scales)[0]


SEARCHES: Mapping[str, Callable[[Seen, LayerKind, Scaling, Alphas, Reader], dict[str, Factors]]] = {
    UNSEARCHED: _unsearched,
    SMOOTH: _smoothed,
    ACTIVATION_AWARE: _searched,
    FEEDBACK: _unsearched,
}
"""Searches by `Scheme.search`."""


def _best(seen: Seen, scaling: Scaling, group: Smooth, means: Values, reader: Reader) -> Values:
    """Scales with the least output error, summed over the group's layers."""
    tried, form, size = awq.candidates(means), load(scaling.scheme.weights), scaling.scheme.group
    errors = np.zeros(len(tried))
    columns = []
    for scales in tried:
        factors = layer_factors(seen.config, [group], {group.name: scales})[0]
        columns.append({role: whole_columns(seen.config, role, factors[role]) for role in group.into})
    for role in group.into:
        lead = len(linear_axes(role)[0])
        squares = flat(seen(role, "squares"), lead)
        for place, values in reader.sampled(TensorId(role, "weight", seen.layer), SAMPLED):
            for i, of in enumerate(columns):
                s = flat(of[role], lead)[place[:lead]]
                errors[i] += awq.scale_error(values, s, squares[place[:lead]], form, size or values.shape[-1])
    return np.asarray(tried[int(errors.argmin())])


def flat(values: Values | None, lead: int) -> Values:
    """Flatten the input axes: [lead ..., in ...] -> [lead ..., in]."""
    assert values is not None
    return values.reshape(*values.shape[:lead], -1)


def _flat(role: str, values: Values | None) -> Values:
    return flat(values, len(linear_axes(role)[0]))


def whole_columns(config: ModelConfig, role: str, factors: Factors) -> Values | None:
    """Columns [experts ..., in ...], repeated where one s serves all experts; None: there are none."""
    if factors.columns is None:
        return None
    lead, _, inner = linear_axes(role)
    sizes = axis_sizes(config)
    return np.ascontiguousarray(np.broadcast_to(factors.columns, [sizes[axis] for axis in (*lead, *inner)]))
