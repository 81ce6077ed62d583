"""Qwen 1.5, 2 and 2.5, dense: Llama with biases on q, k and v, and an optional sliding window in the upper layers."""

from dataclasses import replace

from compiler.model import ConfigMap, Traits
from recipes import llama

DEFAULTS = {
    **llama.DEFAULTS,
    "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "max_position_embeddings": 32768,
}  # fmt: skip
WINDOW_DEFAULTS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
WINDOWS = ConfigMap(
    sliding_window="sliding_window",
    window_switch="use_sliding_window",
    first_windowed="max_window_layers",
    layer_types="layer_types",
)
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
    model_types=("qwen2",),
    defaults={**DEFAULTS, **WINDOW_DEFAULTS},
    config=WINDOWS,
    traits=Traits(qkv_bias=True),
)
