"""Qwen 3, dense: Llama with RMS norms over each head of q and k."""

from dataclasses import replace

from compiler.model import Map, Traits
from recipes import llama, qwen2

L = llama.L
RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("Qwen3ForCausalLM",),
    models={
        "qwen3-0.6b": "Qwen/Qwen3-0.6B",
        "qwen3-1.7b": "Qwen/Qwen3-1.7B",
        "qwen3-4b": "Qwen/Qwen3-4B",
        "qwen3-8b": "Qwen/Qwen3-8B",
        "qwen3-14b": "Qwen/Qwen3-14B",
        "qwen3-32b": "Qwen/Qwen3-32B",
    },
    model_types=("qwen3",),
    defaults={**qwen2.DEFAULTS, **qwen2.WINDOW_DEFAULTS, "head_dim": 128, "attention_bias": False},
    config=qwen2.WINDOWS,
    traits=Traits(qk_norm=True, qkv_bias="attention_bias", out_bias="attention_bias"),
    weights=(
        *llama.RECIPE.weights,
        Map(L + "self_attn.q_norm", "attn.q_norm"),
        Map(L + "self_attn.k_norm", "attn.k_norm"),
    ),
)
