"""Arithmetic of TensorRT-LLM's modules in numpy, for the judge only. Float32; no weights, no names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import ArtifactError

Array = NDArray[np.float32]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps)) * weight)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered * centered).mean(-1, keepdims=True)
    return np.asarray(centered / np.sqrt(variance + np.float32(eps)) * weight + bias)


def rounded(rows: Array, bits: int) -> Array:
    """Weights [out, in] rounded as the weight-only kernels do: integers of `bits` bits, one scale per row.

    The row's largest magnitude is one past the largest integer, and is clipped.
    """
    half = 1 << (bits - 1)
    scale = np.maximum(np.abs(rows).max(-1, keepdims=True), np.float32(1e-30)) / np.float32(half)
    return np.asarray(np.clip(np.round(rows / scale), -half, half - 1) * scale, np.float32)


def as_int8(x: Array) -> Array:
    """Round to whole numbers from -128 to 127."""
    return np.asarray(np.clip(np.rint(x), -128, 127), np.float32)


def as_e4m3(x: Array) -> Array:
    """Round to float8 e4m3: 1 sign, 4 exponent and 3 fraction bits, up to 448.

    Steps are 2^(e - 3) between 2^e and 2^(e + 1), and 2^-9 below 2^-6.
    """
    exponent = np.maximum(np.frexp(x)[1] - 1, -6)  # x = m 2^k with m in [1/2, 1)
    step = np.ldexp(np.float32(1), exponent - 3)
    return np.asarray(np.clip(np.rint(x / step) * step, -448, 448), np.float32)


def e4m3_values() -> Array:
    """Value of each byte of float8 e4m3, [256]."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    small, normal = np.ldexp(fraction / 8, -6), np.ldexp(1 + fraction / 8, exponent - 7)
    values = np.where(exponent == 0, small, normal) * np.where(codes < 128, 1, -1)
    values[[127, 255]] = np.nan
    return values.astype(np.float32)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def gelu(x: Array) -> Array:
    """Tanh approximation of gelu, which TensorRT-LLM computes under every name of gelu."""
    return np.asarray(0.5 * x * (1 + np.tanh(np.float32((2 / pi) ** 0.5) * (x + np.float32(0.044715) * x**3))))


def relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {"silu": silu, "gelu": gelu, "relu": relu}


def frequencies(dim: int, base: float, scaling: Mapping[str, Any] | None) -> Array:
    """Rotary frequency of each pair in radians per position, [dim / 2]."""
    inverse = (base ** (-np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))).astype(np.float32)
    if not scaling:
        return inverse
    kind = scaling.get("type") or scaling.get("rope_type")
    factor = float(scaling["factor"])
    if kind == "linear":
        return np.asarray(inverse / np.float32(factor))
    if kind != "llama3":
        raise ArtifactError(
            f"config.json: the judge computes rotary_scaling linear and llama3; found {kind!r}",
            hint="build the checkpoint again",
        )
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original = float(scaling["original_max_position_embeddings"])
    wavelength = 2 * pi / inverse
    smooth = (original / wavelength - low) / (high - low)
    ramp = (1 - smooth) * inverse / factor + smooth * inverse
    scaled = np.where(wavelength > original / low, inverse / factor, ramp)
    return np.where(wavelength < original / high, inverse, scaled).astype(np.float32)


def rotate(x: Array, inverse: Array, *, interleaved: bool) -> Array:
    """Rotate x [..., S, heads, d] at positions 0 to S - 1. Pairs are neighbors (GPT-J) or half of dim apart
    (GPT-NeoX).
    """
    angle = np.arange(x.shape[-3], dtype=np.float32)[:, None, None] * inverse
    cos, sin = np.cos(angle), np.sin(angle)
    dim = 2 * len(inverse)
    out = x.copy()
    first, second = (np.s_[..., 0:dim:2], np.s_[..., 1:dim:2]) if interleaved else (
        np.s_[..., : dim // 2], np.s_[..., dim // 2 : dim])  # fmt: skip
    out[first] = x[first] * cos - x[second] * sin
    out[second] = x[second] * cos + x[first] * sin
    return out


def alibi_slopes(heads: int) -> Array:
    """Slope of each head, [heads] (Press et al. 2022): a geometric series; heads beyond a power of two take every other
    term of the next series.
    """
    power = 1 << (heads.bit_length() - 1)

    def series(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    return np.array([*series(power), *series(2 * power)[0::2][: heads - power]], np.float32)


def attend(query: Array, key: Array, value: Array, slopes: Array, window: int | None) -> Array:
    """Causal attention: query [S, h, d], key and value [S, k, d] -> [S, h, d]. Head i reads kv head i // (h / k)."""
    length, h, d = query.shape
    group = h // key.shape[1]
    key, value = (np.repeat(x, group, 1).swapaxes(0, 1) for x in (key, value))
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    seen = (distance >= 0) & (distance < (window or length))
    scores = query.swapaxes(0, 1) @ key.swapaxes(1, 2) / np.float32(d**0.5)
    if slopes.any():
        scores -= slopes[:, None, None] * distance.astype(np.float32)
    scores = np.where(seen, scores, np.float32(-np.inf))
    return np.ascontiguousarray((softmax(scores) @ value).swapaxes(0, 1), np.float32)
