"""Mathematics that graphs have, as data: traits of a model with their values, and what a refusal calls the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.model.config import ModelConfig

_LACKING: dict[str, Callable[[ModelConfig], bool]] = {
    "multi-head latent attention": lambda c: c.kv_rank > 0,
    "ALiBi positions": lambda c: c.position == "alibi",
    "attention sinks": lambda c: c.sinks,
    "attention in chunks": lambda c: any(kind.chunk for kind in c.layer_kinds),
    "queries scaled by their position": lambda c: c.temperature_floor > 0,
    "norms over all heads, or with a weight for each": lambda c: (
        c.qk_norm and c.qk_norm_over in ("all_heads", "per_head")
    ),
    "a head with rows of length 1": lambda c: c.head != "plain",
    "shared experts": lambda c: c.shared_ffn > 0,
    "biases of experts": lambda c: c.expert_bias,
    "routers other than a softmax over all experts": lambda c: (
        bool(c.experts) and (c.router != "softmax" or c.router_bias or c.router_float32 or c.expert_groups > 1)
    ),
    "clamped activations": lambda c: c.activation == "clamped_swiglu",
}


def lacking(config: ModelConfig) -> tuple[str, ...]:
    """Mathematics of a model that graphs lack; () where they have all of it."""
    return tuple(name for name, needs in _LACKING.items() if needs(config))
