"""Symmetric int8: value = integer * scale, integers from -127 to 127 (so that -x has the negative integer of x).

    steps    127 / maximum                     integers in 1.0
    scale    1 / steps                         value of one integer
    integer  clip(round(value * steps))        ties to even

The maximum is taken over:

| tensor      | mode        | maximum over                        | known                              |
|-------------|-------------|-------------------------------------|------------------------------------|
| weights     | per channel | a row (one output)                  | at conversion                      |
| weights     | per tensor  | the matrix; q, k, v separately      | at conversion, from row maxima     |
| activations | per token   | the channels of one token           | at run time                        |
| activations | per tensor  | the calibration text                | at calibration ("static")          |
| keys, values| per head    | the calibration text, in each head  | at calibration                     |

The formulas are those of SmoothQuant (Xiao et al. 2022, section 3) as TensorRT-LLM's converters write them, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import ActivationUse, CacheUse, Format, Product, Values, as_float32

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = np.float32(127)
FLOOR = np.float32(1e-8)
"""Least maximum: a channel of zeros gets a large but finite number of steps."""


def steps(maxima: Values) -> Values:
    """Integers in 1.0, of the same shape."""
    return np.divide(LARGEST, np.maximum(maxima, FLOOR), dtype=np.float32)


def scales(maxima: Values) -> Values:
    """Scales, of the same shape."""
    return np.float32(1) / steps(maxima)


def rounded(values: Values) -> NDArray[np.int8]:
    """Nearest integers, -128 included: scales of quantized checkpoints may map a weight there, `scales` never does."""
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


@dataclass(frozen=True)
class Static:
    """Scales of a linear layer with static activations, for toolchains with int8 outputs.

    y [out] = integers of x . integers of W * accumulated * output; the largest |y| cancels.
    """

    input: np.float32
    """Steps of x: 127 / largest |x|."""
    output: np.float32
    """Scale of y: largest |y| / 127."""
    accumulated: Values
    """[out]: steps of y / (steps of x * steps of W), from a sum of products of integers to an integer of y."""


def static(largest_input: float, largest_output: float, weight_steps: Values) -> Static:
    """Static scales, from maxima over the calibration text and `weight_steps` [out]."""
    x, y = steps(np.array([largest_input, largest_output], np.float32))
    return Static(x, np.float32(1) / y, y / (x * weight_steps))


def _static_parts(largest_input: float, largest_output: float, weight_steps: Values) -> dict[str, Values]:
    found = static(largest_input, largest_output, weight_steps)
    return {
        "input_scale": np.full(1, 1 / found.input, np.float32),
        "input_steps": np.full(1, found.input, np.float32),
        "output_scale": np.full(1, found.output, np.float32),
        "accumulated": found.accumulated,
    }


def tokens(x: Tensor, input_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize x [..., in] to int8 [..., in] with a scale for each token, float32 [..., 1].

    The scale of a token with NaN or an infinity is NaN.
    """
    import torch

    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    if input_scale is None:
        bounded = largest.clamp_min(1e-8)
        steps = torch.full_like(bounded, 127.0) / bounded  # torch computes 127.0 / tensor as reciprocal * 127.0
        scale = 1.0 / steps
    else:
        steps, scale = 1.0 / input_scale, torch.where(largest.isfinite(), input_scale, float("nan"))
    return (wide * steps).round().clamp(-127, 127).to(torch.int8), scale


FORMAT = Format(
    name="int8",
    bits=8,
    dtype="I8",
    torch_dtype="int8",
    largest=LARGEST,
    steps=steps,
    scales=scales,
    round=rounded,
    decode=as_float32,
    products=(Product("weight_only", "float"), Product("per_token", "token"), Product("per_tensor", "tensor")),
    activations=ActivationUse(tokens, _static_parts, ("input_scale", "input_steps", "output_scale", "accumulated")),
    cache=CacheUse(lambda top: np.float32(top) / LARGEST, lambda top: top / LARGEST),
)
