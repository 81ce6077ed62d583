"""Traits in combinations that no recipe has, against the models of transformers that have them.

Weights go straight from a model in memory to the names of a rank file at tp 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from compiler.decoder.forward import forward
from compiler.model.config import LayerKind, ModelConfig
from tests.simulated import SimulatedRanks
from tests.tiny import fill

VOCAB, HIDDEN, HEADS, LAYERS = 61, 32, 4, 2

Stems = Mapping[str, tuple[str, ...]]
"""File tensor -> the modules of transformers whose rows it joins."""


@dataclass(frozen=True)
class Case:
    """One architecture: config of transformers, what differs in ours, and where its weights are."""

    hf: dict[str, Any]
    ours: dict[str, Any]
    layer_prefix: str
    model: Stems
    layer: Stems


_SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
}
_MODEL = {"embed": ("model.embed_tokens",), "final.norm": ("model.norm",), "head": ("lm_head",)}
_ATTENTION = {
    "attn.norm": ("input_layernorm",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.o": ("self_attn.o_proj",),
    "mlp.norm": ("post_attention_layernorm",),
}

CASES = {
    "phi: layer norm, plain mlp, partial rotation, parallel, every bias": Case(
        {**_SIZES, "model_type": "phi", "partial_rotary_factor": 0.5, "hidden_act": "gelu_new"},
        {
            "norm": "layer", "activation": "gelu_tanh", "rotary_dim": 4, "parallel_residual": True, "qkv_bias": True,
            "out_bias": True, "mlp_bias": True, "head_bias": True, "layer_kinds": (LayerKind("plain"),) * LAYERS,
        },
        "model.layers.{}.",
        {**_MODEL, "final.norm": ("model.final_layernorm",)},
        {**_ATTENTION, "attn.o": ("self_attn.dense",), "mlp.up": ("mlp.fc1",), "mlp.down": ("mlp.fc2",)},
    ),
}  # fmt: skip


def _ours(case: Case) -> ModelConfig:
    usual: dict[str, Any] = {
        "layers": LAYERS, "hidden": HIDDEN, "heads": HEADS, "kv_heads": 2, "head_dim": 8, "ffn": 48, "vocab": VOCAB,
        "norm_eps": 1e-5, "max_positions": 64, "dtype": "float32", "rotary_dim": 8,
        "layer_kinds": (LayerKind("gated"),) * LAYERS,
    }  # fmt: skip
    return ModelConfig("", **{**usual, **case.ours})


def _weights(case: Case, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    blocks = [("", "", case.model)]
    blocks += [(f"layers.{i}.", case.layer_prefix.format(i), case.layer) for i in range(LAYERS)]
    for ours, prefix, stems in blocks:
        for name, modules in stems.items():
            for part in ("weight", "bias"):
                rows = [theirs[f"{prefix}{m}.{part}"] for m in modules if f"{prefix}{m}.{part}" in theirs]
                if rows:
                    found[f"{ours}{name}.{part}"] = torch.cat(rows).contiguous()
    return found


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    case = CASES[name]
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**case.hf), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    fill(model, seed=0)
    config, weights = _ours(case), _weights(case, dict(model.state_dict()))
    token_ids = torch.randint(0, VOCAB, (2, 15), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(token_ids).logits
    torch.testing.assert_close(forward(config, weights, token_ids), theirs, rtol=0, atol=1e-4)

    steps = SimulatedRanks(config, [weights], batch=2, positions=15)
    positions = torch.arange(15).expand(2, 15)
    logits = [steps.step(token_ids[:, a:b], positions[:, a:b]) for a, b in ((0, 9), (9, 14), (14, 15))]
    torch.testing.assert_close(torch.cat(logits, 1), theirs, rtol=0, atol=1e-4)
