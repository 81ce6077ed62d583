"""Gemma: Llama with norms of 1 + weight, a scaled embedding that is also the head, and a gelu gate."""

from dataclasses import replace

from compiler.model import Default, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("GemmaForCausalLM",),
    models={"gemma-2b": "google/gemma-2b", "gemma-7b": "google/gemma-7b", "gemma-7b-it": "google/gemma-7b-it"},
    traits=Traits(
        norm="rms_plus_one",
        activation="gelu_pytorch_tanh",  # the trained one, also where config.json says `gelu`
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        embedding_scale="sqrt_hidden",
        tied=Default("tie_word_embeddings", value=True),
    ),
    assumes={"use_bidirectional_attention": False},
)
