"""Gemma: Llama with norms of 1 + weight, a scaled embedding that is also the head, and a gelu gate."""

from dataclasses import replace

from compiler.model import ACTIVATIONS, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("GemmaForCausalLM",),
    models={"gemma-2b": "google/gemma-2b", "gemma-7b": "google/gemma-7b", "gemma-7b-it": "google/gemma-7b-it"},
    model_types=("gemma",),
    defaults={
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "attention_bias": False,
    },
    traits=Traits(
        norm="rms_plus_one",
        activations={**ACTIVATIONS, "gelu": "gelu_tanh"},  # the trained one, although config.json says `gelu`
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        embedding_scale="sqrt_hidden",
    ),
    assumes={"use_bidirectional_attention": False},
)  # fmt: skip
