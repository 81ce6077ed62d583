"""Granite 3: Llama with factors on the embedding, on scores of attention, on outputs of blocks and on logits."""

from dataclasses import replace

from compiler.model import ConfigMap, Power
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("GraniteForCausalLM",),
    models={
        "granite-3.0-2b": "ibm-granite/granite-3.0-2b-base",
        "granite-3.0-8b": "ibm-granite/granite-3.0-8b-base",
        "granite-3.1-2b-instruct": "ibm-granite/granite-3.1-2b-instruct",
        "granite-3.1-8b-instruct": "ibm-granite/granite-3.1-8b-instruct",
        "granite-3.3-2b-instruct": "ibm-granite/granite-3.3-2b-instruct",
        "granite-3.3-8b-instruct": "ibm-granite/granite-3.3-8b-instruct",
    },
    model_types=("granite",),
    defaults={
        **llama.RECIPE.defaults,
        "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0, "logits_scaling": 1.0,
    },
    config=ConfigMap(
        embedding_scale="embedding_multiplier",
        residual_scale="residual_multiplier",
        attention_scale="attention_multiplier",
        logit_scale=Power("logits_scaling", -1),
    ),
)  # fmt: skip
