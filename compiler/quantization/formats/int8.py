"""Symmetric int8: value = integer * scale, integers from -127 to 127 (so that -x has the negative integer of x).

    steps    127 / maximum                     integers a unit; `scale_w_quant_orig` and the like in other projects
    scale    1 / steps                         what an integer is worth
    integer  clip(round(value * steps))        ties to even

Over what a maximum is taken:

| of          | mode        | maximum over                        | known                              |
|-------------|-------------|-------------------------------------|------------------------------------|
| weights     | per channel | a row (one output)                  | at conversion                      |
| weights     | per tensor  | the matrix; q, k, v each their own  | from the maxima of all rows        |
| activations | per token   | the channels of one token           | when it runs                       |
| activations | per tensor  | the calibration text                | at calibration ("static")          |
| keys, values| per tensor  | outputs of q, k and v, text         | at calibration                     |

The formulas are those of SmoothQuant (Xiao et al. 2022, section 3) as TensorRT-LLM's converters write them, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Integers = NDArray[np.int8]

LARGEST = np.float32(127)
FLOOR = np.float32(1e-8)
"""Of a maximum: a dead channel gets a large but finite number of steps."""


def steps(maxima: Values) -> Values:
    """Integers a unit, of the same shape."""
    return np.divide(LARGEST, np.maximum(maxima, FLOOR), dtype=np.float32)


def scales(maxima: Values) -> Values:
    """What an integer is worth, of the same shape."""
    return np.float32(1) / steps(maxima)


def quantize(values: Values, steps: Values) -> Integers:
    """Integers of `values`; `steps` broadcasts against them ([out, 1] for the rows of a weight [out, in])."""
    integers: Integers = np.clip(np.rint(values * steps), -LARGEST, LARGEST).astype(np.int8)
    return integers


def dequantize(integers: Integers, scales: Values) -> Values:
    """`scales` broadcasts as `steps` does in `quantize`."""
    return integers.astype(np.float32) * scales


def row_maxima(weight: Values) -> Values:
    """[..., in] -> [...]: the largest |W| of every row."""
    maxima: Values = np.abs(weight).max(-1)
    return maxima


def shared_maxima(maxima: Values, sizes: Sequence[int]) -> Values:
    """The mode "per tensor": maxima [out] of rows -> [out], where each of the parts has its largest everywhere.

    `sizes`: rows of each part. A fused q k v has three, every other matrix one.
    """
    if sum(sizes) != maxima.size:
        raise ValueError(f"parts of {sum(sizes)} rows, found {maxima.size} maxima")
    parts = np.split(maxima, np.cumsum(sizes)[:-1])
    return np.concatenate([np.full(part.size, part.max(), np.float32) for part in parts])


def quantize_tokens(x: Values) -> tuple[Integers, Values]:
    """The mode "per token": x [tokens, in] -> integers [tokens, in] and what one is worth, [tokens, 1].

    The definition of what kernels do while the model runs. A token of zeros has integers of zero.
    """
    maxima = np.abs(x).max(-1, keepdims=True)
    return quantize(x, steps(maxima)), scales(maxima)


@dataclass(frozen=True)
class Static:
    """Scales of a linear layer with static activations, as toolchains with int8 outputs store them.

    y [out] = integers of x . integers of W * accumulated * output: the largest |y| cancels.
    """

    input: np.float32
    """Steps of x: 127 / largest |x|."""
    output: np.float32
    """What an integer of y is worth: largest |y| / 127."""
    accumulated: Values
    """[out]: steps of y by those of x and W; from the sum of products of integers to an integer of y."""


def static(largest_input: float, largest_output: float, weight_steps: Values) -> Static:
    """`largest_*`: over the calibration text. `weight_steps`: [out]."""
    x, y = steps(np.array([largest_input, largest_output], np.float32))
    return Static(x, np.float32(1) / y, y / (x * weight_steps))


def kv_scale(q: Values, k: Values, v: Values) -> np.float32:
    """What an integer of a key or value in an int8 cache is worth: one for the layer, from the largest |output| of the
    three, by channel, before rotation. TensorRT-LLM's `kv_cache_scaling_factor`.
    """
    return np.float32(max(q.max(), k.max(), v.max())) / LARGEST
