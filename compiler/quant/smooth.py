"""SmoothQuant (Xiao et al. 2022): outliers of activations moved into the weights that take them.

    y = x W^T = (x / s) (W s)^T        s > 0, one value an input channel j, for all linear layers that share x

    s_j = max(x_j^alpha / max(w_j, 1e-5)^(1 - alpha), 1e-5)

x_j is the largest |x| of channel j over the calibration text, w_j the largest |W| of column j over all those layers.
The formula is equation 4 of the paper; the two floors, and the computation in float64, are those of TensorRT-LLM's
converters, whose results this gives.

One departure: a channel that the calibration text never used (x_j = 0) gets s_j = 1. The formula would give it the
floor, and the norm in front, divided by it, would pass the largest float16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compiler.errors import UsageError
from compiler.ir.config import Norm

Values = NDArray[np.float32]

FLOOR = 1e-5


def check_alpha(alpha: float) -> None:
    """Raises UsageError where `alpha` is not in [0, 1]."""
    if not 0 <= alpha <= 1:
        raise UsageError(
            f"`--smoothquant-alpha {alpha:g}`: expected a number from 0 to 1",
            hint="0.5 suits most models; larger values move more of the outliers into the weights",
        )


def smoothing_scales(inputs: Values, columns: Values, alpha: float) -> Values:
    """s of the formula above, from x `inputs` and w `columns`, all float32 [...] of one shape. Raises UsageError."""
    check_alpha(alpha)
    x, w = inputs.astype(np.float64), np.maximum(columns.astype(np.float64), FLOOR)
    scales = np.maximum(x**alpha / w ** (1 - alpha), FLOOR)
    return np.where(x > 0, scales, 1.0).astype(np.float32)


def divide_norm(kind: Norm, weight: Values, scales: Values) -> Values:
    """The weight [H] of a norm whose output is to be divided by `scales` [H]. A bias is divided as it is.

    `rms_plus_one` multiplies by 1 + weight, so (1 + weight) / s - 1.
    """
    match kind:
        case "rms" | "layer":
            return weight / scales
        case "rms_plus_one":
            return (weight + np.float32(1)) / scales - np.float32(1)
