"""Rotary positions against closed formulas computed apart from the decoder, and against transformers in bfloat16."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.decoder.rotary import rotate, scaled, tables
from compiler.model.config import ModelConfig, Rotary
from compiler.model.rope import RopeScaling, of_length, read_rope_scaling


def _config(rotary_dim: int = 16, theta: float = 10000.0, scaling: RopeScaling | None = None) -> ModelConfig:
    return ModelConfig(
        "", layers=0, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=8, vocab=8, norm_eps=1e-5, max_positions=64,
        dtype="float32", rotary_dim=rotary_dim, rope_theta=theta, rope_scaling=scaling,
    )  # fmt: skip


def _llama3_by_wavelength(frequency: float, scaling: RopeScaling) -> float:
    """As the Llama 3.1 reference states it: three ranges of wavelengths."""
    wavelength = 2 * math.pi / frequency
    original = scaling.original_max_positions
    if wavelength < original / scaling.high_freq_factor:
        return frequency
    if wavelength > original / scaling.low_freq_factor:
        return frequency / scaling.factor
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = (original / wavelength - scaling.low_freq_factor) / span
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


@given(
    dim=st.sampled_from([8, 64, 128]),
    theta=st.floats(1e3, 1e6),
    factor=st.floats(1, 32),
    low=st.floats(0.5, 4),
    span=st.floats(0.5, 8),
    original=st.integers(32, 16384),
)
def test_llama3_scaling(dim: int, theta: float, factor: float, low: float, span: float, original: int) -> None:
    scaling = RopeScaling("llama3", factor, low, low + span, original)
    plain = theta ** -(np.arange(0, dim, 2) / dim)
    expected = [_llama3_by_wavelength(f, scaling) for f in plain]
    np.testing.assert_allclose(scaled(torch.from_numpy(plain), _config(scaling=scaling)).numpy(), expected, rtol=1e-9)


def test_tables_are_the_angles() -> None:
    scaling = RopeScaling("linear", 4.0)
    cos, sin = tables(_config(rotary_dim=12, theta=500.0, scaling=scaling), 50, torch.float32)
    angles = np.arange(50)[:, None] * 500.0 ** -(np.arange(0, 12, 2) / 12) / 4
    np.testing.assert_allclose(cos.numpy(), np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin.numpy(), np.sin(angles), atol=1e-5)


def _complex(kind: Rotary, x: torch.Tensor) -> torch.Tensor:
    """The pairs of a head as complex numbers."""
    half = x.shape[-1] // 2
    return torch.complex(x[..., :half], x[..., half:]) if kind == "half" else torch.complex(x[..., 0::2], x[..., 1::2])


@pytest.mark.parametrize("kind", ["half", "interleaved"])
def test_turns_pairs_like_complex_numbers(kind: Rotary) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 3, 16, generator=generator)
    positions = torch.randint(0, 50, (2, 7), generator=generator)
    cos, sin = (table[positions] for table in tables(_config(), 50, torch.float32))
    turned = _complex(kind, rotate(kind, x, cos, sin))
    expected = _complex(kind, x) * torch.complex(cos, sin)[:, :, None]
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize("kind", ["half", "interleaved"])
def test_partial_rotation_leaves_the_rest_alone(kind: Rotary) -> None:
    x = torch.randn(1, 5, 2, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = (table[None] for table in tables(_config(rotary_dim=6), 5, torch.float32))
    turned = rotate(kind, x, cos, sin)
    assert torch.equal(turned[..., 6:], x[..., 6:])
    assert torch.equal(turned[..., :6], rotate(kind, x[..., :6], cos, sin))
    assert not torch.allclose(turned[:, 1:, :, :6], x[:, 1:, :, :6])


def test_rounds_where_transformers_rounds() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 9, 4, 16, generator=generator).bfloat16() for _ in range(2))
    cos, sin = (table[None] for table in tables(_config(), 9, torch.bfloat16))
    twice = (torch.cat((table, table), -1) for table in (cos, sin))
    theirs = apply_rotary_pos_emb(q, k, *twice, unsqueeze_dim=2)
    assert torch.equal(rotate("half", q, cos, sin), theirs[0])
    assert torch.equal(rotate("half", k, cos, sin), theirs[1])


_FOUND: dict[str, dict[str, Any]] = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, sharp and not rounded": {"factor": 8.0, "beta_fast": 8, "beta_slow": 2, "truncate": False},
    "yarn, DeepSeek's scales": {"factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707},
    "yarn, its own attention factor": {"factor": 4.0, "attention_factor": 1.5},
    "longrope": {"short_factor": [1.0, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0],
                 "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 24.0, 32.0],
                 "original_max_position_embeddings": 48},
    "longrope, its own factor": {"short_factor": [1.0] * 8, "long_factor": [2.5] * 8, "factor": 8.0},
    "longrope, its own attention factor": {"short_factor": [1.0] * 8, "long_factor": [2.5] * 8, "factor": 8.0,
                                           "attention_factor": 1.3, "original_max_position_embeddings": 48},
}  # fmt: skip


@pytest.mark.parametrize("length", [40, 200])  # below and above every original context
@pytest.mark.parametrize("case", _FOUND)
def test_each_scaling_is_that_of_transformers(case: str, length: int) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    most = {"dynamic": 64, "yarn, sharp and not rounded": 64}.get(case, 256)
    section = {"rope_type": case.partition(",")[0], "rope_theta": 5000.0, **_FOUND[case]}
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=most, rope_parameters=dict(section))
    )
    cos, sin = (table[0, :, :8] for table in theirs(torch.zeros(1), torch.arange(length)[None]))
    scaling = of_length(read_rope_scaling(section, most), length)
    ours = tables(replace(_config(theta=5000.0), rope_scaling=scaling), length, torch.float32)
    torch.testing.assert_close(ours[0], cos, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1], sin, atol=1e-5, rtol=0)


def test_the_length_of_the_build_decides_where_transformers_goes_by_that_of_the_sequence() -> None:
    longrope = read_rope_scaling({"rope_type": "longrope", **_FOUND["longrope"]}, 256)
    short, long = (
        tables(replace(_config(), rope_scaling=of_length(longrope, length)), 40, torch.float32)[0]
        for length in (48, 49)
    )
    assert not torch.allclose(short, long, atol=1e-2)
    dynamic = read_rope_scaling({"rope_type": "dynamic", "factor": 2.0}, 64)
    assert of_length(dynamic, 64) is None
    assert of_length(dynamic, 65) is not None
