"""ModelConfigs for tests of the algebra, without a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compiler.model.config import LayerKind, ModelConfig

_DENSE = ModelConfig(
    architecture="TestForCausalLM",
    layers=2,
    hidden=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    ffn=24,
    vocab=37,
    norm_eps=1e-5,
    max_positions=64,
    dtype="bfloat16",
    rotary_dim=4,
    layer_kinds=(LayerKind("gated"),) * 2,
)


def config(**changes: Any) -> ModelConfig:
    return replace(_DENSE, **changes)
