"""float8 e4m3 ("fn": no infinities), on bits: 1 sign, 4 exponent (bias 7), 3 fraction bits.

    exponent 0         fraction * 2^-9                       down to 2^-9
    exponent 1 ... 15  (1 + fraction / 8) * 2^(exponent - 7) up to 448
    0x7f, 0xff         NaN

The format of Micikevicius et al. 2022 (table 1), `torch.float8_e4m3fn`, F8_E4M3 of safetensors. Encoding rounds to
nearest, ties to even. Magnitudes above 448 become 448, as the hardware's saturating conversion does; torch's cast makes
a NaN of those that round past it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compiler.quantization.format import ActivationUse, CacheUse, Format, Product, Values, inverse

if TYPE_CHECKING:
    from torch import Tensor

Bits = NDArray[np.uint8]

LARGEST = np.float32(448)
LEAST_SCALE = np.float32(1 / (448 * 512))
"""Least scale of a row, that of TensorRT-LLM."""
_NAN = np.uint8(0x7F)


def encode(values: Values) -> Bits:
    """Bits of float32 `values`, of the same shape."""
    wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
    sign = (wide >> 24).astype(np.uint8) & np.uint8(0x80)
    magnitude = wide & np.uint32(0x7FFFFFFF)
    capped = np.minimum(magnitude, LARGEST.view(np.uint32))
    # Normal numbers: drop 20 of 23 fraction bits (adding half and the last kept bit rounds to nearest even), and 120 of
    # the exponent's bias.
    normal = ((capped + np.uint32(0x7FFFF) + ((capped >> 20) & 1)) >> 20) - np.uint32(120 << 3)
    # Below 2^-6: multiples of 2^-9; the bits are the factor.
    small = np.rint(capped.view(np.float32) * np.float32(512)).astype(np.uint32)
    bits = np.where(capped < np.uint32(0x3C800000), small, normal).astype(np.uint8)
    nan = magnitude > np.uint32(0x7F800000)
    encoded: Bits = np.where(nan, _NAN, bits) | sign
    return encoded


def decode(bits: Bits) -> Values:
    """Float32 values of `bits`, of the same shape."""
    return _TABLE[bits]


def tensor_scale(largest: float) -> np.float32:
    """Scale of a tensor whose largest magnitude is `largest`: TensorRT-LLM's `weights_scaling_factor` and
    `activation_scaling_factor`.
    """
    return np.float32(max(largest, float(np.finfo(np.float32).tiny) * 448)) / LARGEST


def channel_scales(maxima: Values) -> Values:
    """Scales of rows, from the largest |W| of each: [out] -> [out]. TensorRT-LLM's `per_channel_scale` of
    FP8_PER_CHANNEL_PER_TOKEN, with its least value.
    """
    scales: Values = np.maximum(maxima / LARGEST, LEAST_SCALE)
    return scales


def _table() -> Values:
    codes = np.arange(256, dtype=np.int32)
    exponent, fraction = (codes >> 3) & 15, (codes & 7).astype(np.float64)
    values = np.where(exponent == 0, fraction / 512, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    values[[0x7F, 0xFF]] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float32)


_TABLE = _table()


def _static_parts(largest_input: float, _largest_output: float, _weight_steps: Values) -> dict[str, Values]:
    scale = tensor_scale(largest_input)
    return {"input_scale": np.full(1, scale, np.float32), "input_steps": np.full(1, 1 / scale, np.float32)}


def _layer_scale(top: float) -> np.float32:
    """Scale of a layer, at least 1, since some toolchains fix it at 1: float8 is as precise for small values."""
    return np.float32(max(tensor_scale(top), np.float32(1)))


def _head_scales(top: Values) -> Values:
    """Scales of heads: the maximum becomes half of LARGEST, which costs no precision and leaves room for values twice
    as large as in the calibration text.
    """
    scales: Values = 2 * top / LARGEST
    return scales


def tokens(x: Tensor, input_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize x [..., in] to float8 [..., in] with a scale for each token, float32 [..., 1].

    The scale of a token with NaN or an infinity is NaN.
    """
    import torch

    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    if input_scale is None:
        scale = (largest / torch.full_like(largest, 448.0)).clamp_min(1 / (448 * 512))
        steps = 1.0 / scale
    else:
        steps, scale = 1.0 / input_scale, torch.where(largest.isfinite(), input_scale, float("nan"))
    return (wide * steps).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


FORMAT = Format(
    name="fp8",
    bits=8,
    dtype="F8_E4M3",
    torch_dtype="float8_e4m3fn",
    largest=LARGEST,
    steps=lambda maxima: inverse(channel_scales(maxima)),
    scales=channel_scales,
    round=encode,
    decode=decode,
    products=(Product("fp8_per_token", "token"), Product("fp8_per_tensor", "tensor")),
    activations=ActivationUse(tokens, _static_parts, ("input_scale", "input_steps")),
    cache=CacheUse(_layer_scale, _head_scales),
)
