"""Mistral and Ministral: Llama with a sliding window, in all layers or, with `layer_types`, in some."""

from dataclasses import replace

from compiler.model import ConfigMap, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("MistralForCausalLM", "MinistralForCausalLM"),
    models={
        "mistral": "mistralai/Mistral-7B-v0.1",
        "mistral-7b": "mistralai/Mistral-7B-v0.1",
        "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
        "mistral-nemo": "mistralai/Mistral-Nemo-Base-2407",
    },
    model_types=("mistral", "ministral"),
    defaults={
        **llama.DEFAULTS,
        "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096,
    },
    config=ConfigMap(sliding_window="sliding_window", layer_types="layer_types"),
    traits=Traits(),
)  # fmt: skip
