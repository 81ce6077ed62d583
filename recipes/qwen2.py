"""Qwen 1.5, 2 and 2.5, dense: Llama with biases on q, k and v, and an optional sliding window in the upper layers."""

from dataclasses import replace

from compiler.model import Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("Qwen2ForCausalLM",),
    models={
        "qwen2-0.5b": "Qwen/Qwen2-0.5B",
        "qwen2-7b": "Qwen/Qwen2-7B",
        "qwen2-72b": "Qwen/Qwen2-72B",
        "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
        "qwen2.5-7b": "Qwen/Qwen2.5-7B",
        "qwen2.5-72b": "Qwen/Qwen2.5-72B",
    },
    traits=Traits(qkv_bias=True),
)
