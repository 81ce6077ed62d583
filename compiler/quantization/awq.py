"""AWQ (Lin et al. 2023): columns with the largest activations are rounded most finely.

    scale search   s = m^r, normalized to s / sqrt(max s * min s); m_j the mean |x| of channel j; r from 0 to 0.95
                   y = (x / s) round(W s)^T; the r with the least error of y is taken

Equations 4 and 5 of the paper; the search is on a grid. Scales are folded into the same layers as SmoothQuant's
(`groups.py`). The error of y is estimated without inputs: where W is off by D, y is off by x D^T, and since rounding
errors of different columns are independent, its mean square is the sum over columns:

    E |x D^T|^2 = sum over o, j of D_oj^2 E[x_j^2]

so mean |x| and mean x^2 of every channel are all the statistics needed.

One departure: the paper's code also clips the largest magnitudes of a group, by a search for the least error of y. On a
real model such clips made the perplexity worse (`benchmarks/clips.py`). A likely reason: clipped weights all shrink, so
that their errors add up over groups, which a search by the error of one group does not see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import Format, Values, group_maxima, nearest

POINTS = 20


def candidates(means: Values) -> Values:
    """Candidate scales [POINTS, ...] from mean |x| [...]. The first, and those of channels without inputs, are 1."""
    live = means > 0
    floor = np.maximum(means, np.float32(1e-4))
    tried = [np.where(live, _normal(floor ** np.float32(point / POINTS), live), 1) for point in range(POINTS)]
    return np.stack(tried).astype(np.float32)


def scale_error(weight: Values, scales: Values, squares: Values, form: Format, group: int) -> float:
    """Mean square error of y, summed over outputs: weight [..., out, in], scales s [..., in], mean x^2 [..., in]."""
    scaled = weight * scales[..., None, :]
    off = nearest(scaled, form.scales(group_maxima(scaled, group)), form)
    off -= scaled
    seen = np.asarray(squares / np.square(scales), np.float32)[..., None, :]
    return float((np.square(off) * seen.astype(np.float64)).sum())


def _normal(scales: Values, live: NDArray[np.bool_]) -> Values:
    if not live.any():
        return np.ones_like(scales)
    found: Values = scales / np.sqrt(scales[live].max() * scales[live].min())
    return found
