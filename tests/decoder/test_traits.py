"""Traits that no recipe of today combines, against the models of transformers that have them.

Weights go straight from a model in memory to the names of a rank file at tp 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from compiler.decoder.forward import forward
from compiler.ir.config import LayerKind, ModelConfig
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
    transposed: bool = False  # linear layers of the blocks are stored input-major
    renamed: dict[str, str] = field(default_factory=dict)  # names that are no stems


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
_GATED = {"mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"), "mlp.down": ("mlp.down_proj",)}

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
    "gptj: interleaved pairs": Case(
        {"model_type": "gptj", "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "rotary_dim": 6, "n_inner": 48,
         "vocab_size": VOCAB},
        {
            "norm": "layer", "activation": "gelu_tanh", "rotary": "interleaved", "rotary_dim": 6, "kv_heads": HEADS,
            "parallel_residual": True, "mlp_bias": True, "head_bias": True,
            "layer_kinds": (LayerKind("plain"),) * LAYERS,
        },
        "transformer.h.{}.",
        {"embed": ("transformer.wte",), "final.norm": ("transformer.ln_f",), "head": ("lm_head",)},
        {
            "attn.norm": ("ln_1",), "attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
            "attn.o": ("attn.out_proj",), "mlp.up": ("mlp.fc_in",), "mlp.down": ("mlp.fc_out",),
        },
    ),
    "gpt2: learned positions": Case(
        {"model_type": "gpt2", "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB, "n_inner": 48,
         "n_positions": 64},
        {
            "norm": "layer", "activation": "gelu_tanh", "position": "learned", "kv_heads": HEADS, "qkv_bias": True,
            "out_bias": True, "mlp_bias": True, "tied": True, "layer_kinds": (LayerKind("plain"),) * LAYERS,
        },
        "transformer.h.{}.",
        {"embed": ("transformer.wte",), "position": ("transformer.wpe",), "final.norm": ("transformer.ln_f",)},
        {
            "attn.norm": ("ln_1",), "attn.qkv": ("attn.c_attn",), "attn.o": ("attn.c_proj",), "mlp.norm": ("ln_2",),
            "mlp.up": ("mlp.c_fc",), "mlp.down": ("mlp.c_proj",),
        },
        transposed=True,
    ),
    "gemma: rms plus one, scaled embedding": Case(
        {**_SIZES, "model_type": "gemma", "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"},
        {
            "norm": "rms_plus_one", "activation": "gelu_tanh", "head_dim": 16, "rotary_dim": 16, "tied": True,
            "embedding_scale": math.sqrt(HIDDEN), "norm_eps": 1e-6,
        },
        "model.layers.{}.",
        {"embed": ("model.embed_tokens",), "final.norm": ("model.norm",)},
        {**_ATTENTION, **_GATED},
    ),
    "qwen3: norms on q and k": Case(
        {**_SIZES, "model_type": "qwen3", "head_dim": 16},
        {"qk_norm": True, "head_dim": 16, "rotary_dim": 16, "norm_eps": 1e-6},
        "model.layers.{}.",
        _MODEL,
        {**_ATTENTION, **_GATED, "attn.q_norm": ("self_attn.q_norm",), "attn.k_norm": ("self_attn.k_norm",)},
    ),
    "qwen2-moe: shared expert, raw shares, a dense layer": Case(
        {**_SIZES, "model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
         "shared_expert_intermediate_size": 28, "norm_topk_prob": False, "mlp_only_layers": [1]},
        {
            "qkv_bias": True, "norm_eps": 1e-6, "experts": 6, "experts_per_token": 3, "moe_ffn": 20, "shared_ffn": 28,
            "renormalize_experts": False, "shared_expert_gate": True,
            "layer_kinds": (LayerKind("moe"), LayerKind("gated")),
        },
        "model.layers.{}.",
        _MODEL,
        {
            **_ATTENTION, **_GATED, "moe.router": ("mlp.gate",),
            "shared.gate_up": ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
            "shared.down": ("mlp.shared_expert.down_proj",), "shared.router": ("mlp.shared_expert_gate",),
        },
        renamed={"moe.gate_up.weight": "mlp.experts.gate_up_proj", "moe.down.weight": "mlp.experts.down_proj"},
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
    blocks = [("", "", case.model, False)]
    blocks += [(f"layers.{i}.", case.layer_prefix.format(i), case.layer, case.transposed) for i in range(LAYERS)]
    for ours, prefix, stems, transposed in blocks:
        for name, modules in stems.items():
            for part in ("weight", "bias"):
                rows = [theirs[f"{prefix}{m}.{part}"] for m in modules if f"{prefix}{m}.{part}" in theirs]
                if rows:
                    joined = torch.cat(rows)
                    found[f"{ours}{name}.{part}"] = joined.T if transposed and joined.dim() == 2 else joined
        if ours:
            found |= {ours + a: theirs[prefix + b] for a, b in case.renamed.items() if prefix + b in theirs}
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str) -> None:
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
