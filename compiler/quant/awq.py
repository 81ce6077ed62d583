"""AWQ (Lin et al. 2023): which columns a weight's rounding may hurt is read off the activations.

    scale search   s = m^r, normalised to s / sqrt(max s * min s); m_j the mean |x| of channel j; r from 0 to 1
                   y = (x / s) round(W s)^T, and the r is taken whose y is nearest
    clip search    every group of a row may give up its largest magnitudes, so that the others are rounded more finely;
                   the clip is taken whose part of y is nearest

Equations 4 and 5 and section 3.2 of the paper; both are searches on a grid, of 20 points each. Scales are folded where
SmoothQuant's are (`groups.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.quant import int4

Values = NDArray[np.float32]
Rounding = Callable[[Values], Values]
"""A weight [out, in] as it comes back from its quantised form."""

POINTS = 20
LEAST_CLIP = 0.5
"""Of a group's largest magnitude: what the paper's code still tries."""


@dataclass(frozen=True)
class Found:
    """`scales` [in] that the columns are multiplied by; `ratio` is r, `error` the mean squared error of y at it."""

    scales: Values
    ratio: float
    error: float


def search_scales(weight: Values, inputs: Values, means: Values, rounding: Rounding) -> Found:
    """weight [out, in] (layers that share their input, one below the other), inputs [tokens, in] a sample of x, means
    [in] of |x|.

    Where every r is as bad as none, s is 1: the search never makes things worse on its sample.
    """
    best: Found | None = None
    for point in range(POINTS):
        ratio = point / POINTS
        scales = _scales(means, ratio)
        error = output_error(rounding(weight * scales) / scales - weight, inputs)
        if best is None or error < best.error:
            best = Found(scales, ratio, error)
    assert best is not None
    return best


def clip(weight: Values, inputs: Values, group: int = int4.GROUP) -> Values:
    """The largest magnitude that every group keeps: [out, in / group], for `int4.scales`.

    weight [out, in], inputs [tokens, in]. Rows are searched for one by one, so blocks of rows give the same.
    """
    rows, columns = weight.shape
    grouped = inputs.reshape(-1, columns // group, group)
    # One [group, group] matrix of second moments a group says what any error of that group does to y.
    moments = np.einsum("tgi,tgj->gij", grouped, grouped)
    full = int4.group_maxima(weight, group)
    best, least = full.copy(), np.full(full.shape, np.inf, np.float32)
    for point in range(POINTS):
        maxima = full * np.float32(1 - point * (1 - LEAST_CLIP) / POINTS)
        scales = int4.scales(maxima)
        difference = int4.dequantize(int4.quantize(weight, scales), scales) - weight
        parts = difference.reshape(rows, -1, group)
        error = np.einsum("ogi,gij,ogj->og", parts, moments, parts, optimize=True)
        better = error < least
        best, least = np.where(better, maxima, best), np.where(better, error, least)
    return best


def output_error(difference: Values, inputs: Values) -> float:
    """Mean squared error of x W^T where W is off by `difference` [out, in], over the sample `inputs` [tokens, in]."""
    return float(np.square(inputs @ difference.T, dtype=np.float64).mean())


def _scales(means: Values, ratio: float) -> Values:
    scales = np.maximum(means, np.float32(1e-4)) ** np.float32(ratio)
    normal: Values = scales / np.sqrt(scales.max() * scales.min())
    return normal
