"""Rotary positions (Su et al. 2021): pairs of a head's elements turn by position * frequency.

The first `rotary_dim` elements of a head turn, the rest stays. Pairs of elements:

    half           i and i + rotary_dim / 2       Llama as stored by Hugging Face
    interleaved    2 i and 2 i + 1                GPT-J, ChatGLM

Cosines and sines are tables over positions, computed once in float32 and rounded to the model's dtype as transformers
rounds them; a segment reads the rows of its positions.
"""

from __future__ import annotations

from dataclasses import replace
from math import pi

import torch
from torch import Tensor

from compiler.decoder.layer import table_names
from compiler.model.config import LayerKind, ModelConfig, Rotary
from compiler.model.rope import RopeScaling


def frequencies(config: ModelConfig) -> Tensor:
    """Radians per position, float32 [rotary_dim / 2], context scaling applied."""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    plain = 1.0 / config.rope_theta**exponents
    return plain if config.rope_scaling is None else scaled(plain, config.rope_scaling)


def scaled(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Frequencies for contexts longer than in training.

    linear: all divided by the factor. llama3: divided by it for pairs that turn up to `low_freq_factor` times within
    the original context, kept from `high_freq_factor` turns on, a linear ramp between.
    """
    if scaling.kind == "linear":
        return plain / scaling.factor
    turns = scaling.original_max_positions * plain / (2 * pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return plain * (kept + (1 - kept) / scaling.factor)


def tables(config: ModelConfig, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every pair at positions 0 to `positions` - 1: two [positions, rotary_dim / 2] of `dtype`."""
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies(config)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def named_tables(config: ModelConfig, positions: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """`tables` of all kinds of layers, by name."""
    found: dict[str, Tensor] = {}
    for kind in dict.fromkeys(LayerKind("gated", rope=kind.rope) for kind in config.layer_kinds):
        own = config
        if kind.rope == "local" and config.local_rope_theta is not None:
            own = replace(config, rope_theta=config.local_rope_theta, rope_scaling=None)
        names = table_names(config, kind)
        found |= zip(names, tables(own, positions, dtype) if names else (), strict=True)
    return found


def rotate(kind: Rotary, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, S, heads, D], cos and sin [B, S, rotary_dim / 2] -> [B, S, heads, D]."""
    half = cos.shape[-1]
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turning, rest = x[..., : 2 * half], x[..., 2 * half :]
    if kind == "half":
        a, b = turning[..., :half], turning[..., half:]
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    else:
        a, b = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned
