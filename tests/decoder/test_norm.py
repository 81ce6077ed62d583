"""Norms against the formula in float64, and bit for bit against transformers in bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from compiler.decoder.norm import normalize
from compiler.model.config import Norm


def _inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator) for size in ((3, 5, 48), (48,), (48,)))
    return (x * 7 + 2).to(dtype), weight.to(dtype), bias.to(dtype)


def _expected(kind: Norm, eps: float, x: Any, weight: Any, bias: Any) -> Any:
    """All of them numpy arrays."""
    mean = x.mean(-1, keepdims=True) if kind == "layer" else 0.0
    unit = (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return unit * (1 + weight if kind == "rms_plus_one" else weight) + (bias if kind == "layer" else 0.0)


@pytest.mark.parametrize("kind", ["rms", "rms_plus_one", "layer"])
def test_equals_the_formula(kind: Norm) -> None:
    x, weight, bias = _inputs(torch.float32)
    expected = _expected(kind, 0.1, *(t.double().numpy() for t in (x, weight, bias)))
    np.testing.assert_allclose(normalize(kind, x, weight, bias, 0.1).numpy(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["rms", "rms_plus_one"])
def test_rounds_where_transformers_rounds(kind: Norm) -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    theirs = {"rms": LlamaRMSNorm, "rms_plus_one": GemmaRMSNorm}[kind]
    x, weight, _ = _inputs(torch.bfloat16)
    module = theirs(48, eps=1e-5)
    module.load_state_dict({"weight": weight}, assign=True)
    assert torch.equal(normalize(kind, x, weight, None, 1e-5), module(x))
