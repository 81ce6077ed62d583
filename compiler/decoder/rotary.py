"""Rotary positions (Su et al. 2021): pairs of a head's elements turn by position * frequency.

The first `rotary_dim` elements of a head turn, the rest stays. Pairs of elements:

    half           i and i + rotary_dim / 2       Llama as stored by Hugging Face
    interleaved    2 i and 2 i + 1                GPT-J, ChatGLM

Cosines and sines are tables over positions, computed once in float32 and rounded to the model's dtype as transformers
rounds them; a segment reads the rows of its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil, floor, log, pi

import torch
from torch import Tensor

from compiler.decoder.layer import table_names
from compiler.model.config import LayerKind, ModelConfig, Rotary
from compiler.model.rope import RopeKind, RopeScaling


def frequencies(config: ModelConfig) -> Tensor:
    """Radians per position, float32 [rotary_dim / 2], context scaling applied."""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    scaling = config.rope_scaling
    base = config.rope_theta if scaling is None else scaling.base(config.rope_theta, config.rotary_dim)
    return scaled(1.0 / base**exponents, config)


def scaled(plain: Tensor, config: ModelConfig) -> Tensor:
    """Frequencies [rotary_dim / 2] with the context scaling of `config`."""
    scaling = config.rope_scaling
    return plain if scaling is None else _SCALED[scaling.kind](plain, config, scaling)


def _linear(plain: Tensor, _: ModelConfig, scaling: RopeScaling) -> Tensor:
    return plain / scaling.factor


def _dynamic(plain: Tensor, _: ModelConfig, __: RopeScaling) -> Tensor:
    return plain  # its base is scaled


def _llama3(plain: Tensor, _: ModelConfig, scaling: RopeScaling) -> Tensor:
    """Divided by the factor for pairs that turn up to `low_freq_factor` times within the original context, kept from
    `high_freq_factor` turns on, a linear ramp between.
    """
    turns = scaling.original_max_positions * plain / (2 * pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0.0, 1.0)
    return plain * (kept + (1 - kept) / scaling.factor)


def _yarn(plain: Tensor, config: ModelConfig, scaling: RopeScaling) -> Tensor:
    """Kept for pairs that turn more than `beta_fast` times within the original context, divided by the factor for those
    that turn less than `beta_slow` times; between, a linear ramp over the index of the pair.
    """

    def pair(turns: float) -> float:
        """Index of the pair, as a real number, that turns so often."""
        return dim * log(scaling.original_max_positions / (turns * 2 * pi)) / (2 * log(config.rope_theta))

    dim = config.rotary_dim
    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
    ramp = ramp.clamp(0.0, 1.0)
    return plain * (1 - ramp) + plain / scaling.factor * ramp


def _longrope(plain: Tensor, _: ModelConfig, scaling: RopeScaling) -> Tensor:
    """Each divided by a factor of its own; the length of the build chooses the list."""
    return plain / torch.tensor(scaling.long_factors if scaling.extended else scaling.short_factors)


_SCALED: Mapping[RopeKind, Callable[[Tensor, ModelConfig, RopeScaling], Tensor]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def tables(config: ModelConfig, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every pair at positions 0 to `positions` - 1: two [positions, rotary_dim / 2] of `dtype`.

    Both are multiplied by the attention factor of yarn and longrope.
    """
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies(config)
    scale = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


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
