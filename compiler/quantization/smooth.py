"""SmoothQuant (Xiao et al. 2022): outliers of activations are moved into the weights that read them.

    y = x W^T = (x / s) (W s)^T        s > 0, one per input channel j, for all linear layers that share x

    s_j = max(x_j^alpha / max(w_j, 1e-5)^(1 - alpha), 1e-5)

x_j is the largest |x| of channel j over the calibration text, w_j the largest |W| of column j over all those layers.
The formula is equation 4 of the paper; the two floors and the computation in float64 are those of TensorRT-LLM's
converters, and so are the results.

Alpha may be searched for (`output_error`) by the error of y after rounding, estimated from the maxima and the mean
squares of every channel alone. With W s off by D and x / s by e,

    E |off|^2 = sum over o, j of D_oj^2 E[x_j^2] / s_j^2  +  sum over j of E[e_j^2] sum over o of (W s)_oj^2

    E[e_j^2] = min(step^2 / 12, E[x_j^2] / s_j^2)         a rounding error, or all of a value that rounds to zero
    step     = M / 127,  M the largest |x / s|            of the text, where activations have one scale; else of a
                                                          token, from tokens drawn with these mean squares

One departure: a channel that is zero on the whole calibration text (x_j = 0) gets s_j = 1. The formula would give the
floor, and the norm divided by it would exceed the largest float16.
"""

from __future__ import annotations

import numpy as np

from compiler.errors import UsageError
from compiler.model.config import Norm
from compiler.quantization.format import Format, Values
from compiler.quantization.schemes import ALPHA_OPTION

FLOOR = 1e-5
CANDIDATES = tuple(point / 20 for point in range(4, 20))
"""Alphas to try: 0.2 to 0.95."""
_DRAWN = 256
"""Number of tokens to draw."""


def check_alpha(alpha: float) -> None:
    """Check that alpha is in [0, 1]. Raises UsageError."""
    if not 0 <= alpha <= 1:
        raise UsageError(
            f"`{ALPHA_OPTION}` is a number from 0 to 1; found {alpha:g}",
            hint="0.5 suits most models; larger values move more of the outliers into the weights",
        )


def smoothing_scales(inputs: Values, columns: Values, alpha: float) -> Values:
    """s, from x `inputs` and w `columns`, all float32 of one shape. Raises UsageError (alpha)."""
    check_alpha(alpha)
    x, w = inputs.astype(np.float64), np.maximum(columns.astype(np.float64), FLOOR)
    scales = np.maximum(x**alpha / w ** (1 - alpha), FLOOR)
    return np.where(x > 0, scales, 1.0).astype(np.float32)


def largest_of_text(inputs: Values, _squares: Values, scales: Values) -> float:
    """M of the text, from the largest |x|, the mean x^2 and s of every channel [..., in]."""
    return float((inputs / scales).max())


def largest_of_token(_inputs: Values, squares: Values, scales: Values) -> float:
    """M of a token: root mean square over drawn tokens with normal, independent channels."""
    spread = (np.sqrt(squares) / scales).reshape(-1, scales.shape[-1])
    drawn = np.random.default_rng(0).standard_normal((_DRAWN, scales.shape[-1]), np.float32)
    return max(float(np.sqrt(np.square(drawn * of).max(-1).mean())) for of in spread)


def output_error(
    weight: Values, scales: Values, squares: Values, largest: float, weights: Format, activations: Format
) -> float:
    """E |off|^2 for the rows `weight` [..., n, in]; s and mean x^2 [..., in], M `largest`.

    `weights`, `activations`: formats that W s and x / s are rounded to.
    """
    scaled = weight * scales[..., None, :]
    maxima = np.abs(scaled).max(-1)[..., None]
    off = weights.decode(weights.round(scaled * weights.steps(maxima))) * weights.scales(maxima) - scaled
    seen = (squares / np.square(scales)).astype(np.float64)[..., None, :]
    rounded = np.minimum((largest / float(activations.largest)) ** 2 / 12, seen)
    return float((np.square(off) * seen + np.square(scaled) * rounded).sum())


def divide_norm(kind: Norm, weight: Values, scales: Values) -> Values:
    """Divide the output of a norm by `scales` s [H]: its new weight [H].

    `rms_plus_one` multiplies by 1 + weight, so its new weight is (1 + weight) / s - 1.
    """
    match kind:
        case "rms" | "rms_float32" | "layer":
            return weight / scales
        case "rms_plus_one":
            return (weight + np.float32(1)) / scales - np.float32(1)
