"""What columns are multiplied by before they are rounded: a search for each that a scheme can name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compiler.ir.roles import TensorId, axis_sizes, linear_axes
from compiler.quant import awq
from compiler.quant.groups import (
    Factors,
    Maxima,
    Smooth,
    layer_factors,
    layer_means,
    layer_scales,
    quantised_roles,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from compiler.ir.config import LayerKind, ModelConfig
    from compiler.quant.scaling import Scaling
    from compiler.quant.schemes import Search
    from compiler.stages.matrices import Reader

    Values = NDArray[np.float32]

SAMPLED = 1024
"""Rows of a matrix that a search for the scales of its columns looks at: their errors add up over rows."""


class Seen:
    """What the calibration text did in one layer, by role."""

    def __init__(self, config: ModelConfig, layer: int, maxima: Mapping[str, Values]) -> None:
        self.config, self.layer, self._maxima = config, layer, maxima

    def __call__(self, role: str, what: str) -> Values:
        return self._maxima[f"layers.{self.layer}.{role}.{what}"]


def _unsearched(_seen: Seen, _kind: LayerKind, _scaling: Scaling, _alpha: float, _reader: Reader) -> dict[str, Factors]:
    return {}


def _smoothed(seen: Seen, kind: LayerKind, scaling: Scaling, alpha: float, _reader: Reader) -> dict[str, Factors]:
    """Factors of SmoothQuant, by the tensor's role."""
    config, found = seen.config, scaling.groups(seen.config, kind)
    own = {role: Maxima(seen(role, "inputs"), seen(role, "columns")) for role in quantised_roles(config, kind)}
    scales = layer_scales(config, found, own, alpha)
    return layer_factors(config, found, scales)[0]


def _searched(seen: Seen, kind: LayerKind, scaling: Scaling, _alpha: float, reader: Reader) -> dict[str, Factors]:
    """Factors of AWQ, by the tensor's role."""
    config, found = seen.config, scaling.groups(seen.config, kind)
    means = layer_means(config, found, {role: seen(role, "means") for group in found for role in group.into})
    scales = {group.name: _best(seen, group, means[group.name], reader) for group in found}
    return layer_factors(config, found, scales)[0]


SEARCHES: Mapping[Search, Callable[[Seen, LayerKind, Scaling, float, Reader], dict[str, Factors]]] = {
    "": _unsearched,
    "smooth": _smoothed,
    "awq": _searched,
}


def _best(seen: Seen, group: Smooth, means: Values, reader: Reader) -> Values:
    """The candidate with which all layers of the group together are nearest to what they should give."""
    tried = awq.candidates(means)
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
                errors[i] += awq.scale_error(values, flat(of[role], lead)[place[:lead]], squares[place[:lead]])
    return np.asarray(tried[int(errors.argmin())])


def flat(values: Values | None, lead: int) -> Values:
    """[lead ..., in ...] -> [lead ..., in]"""
    assert values is not None
    return values.reshape(*values.shape[:lead], -1)


def whole_columns(config: ModelConfig, role: str, factors: Factors) -> Values | None:
    """[experts ..., in ...] also where one s serves all experts."""
    if factors.columns is None:
        return None
    lead, _, inner = linear_axes(role)
    sizes = axis_sizes(config)
    return np.ascontiguousarray(np.broadcast_to(factors.columns, [sizes[axis] for axis in (*lead, *inner)]))
