"""Mistral: Llama with a sliding window."""

from dataclasses import replace

from compiler.model import Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("MistralForCausalLM",),
    models={
        "mistral": "mistralai/Mistral-7B-v0.1",
        "mistral-7b": "mistralai/Mistral-7B-v0.1",
        "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
        "mistral-nemo": "mistralai/Mistral-Nemo-Base-2407",
    },
    traits=Traits(),
)
