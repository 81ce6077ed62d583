"""Granite 3: Llama with factors on the embedding, on scores of attention, on outputs of blocks and on logits."""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Power
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
    # Absent keys have the values of transformers' GraniteConfig.
    config=ConfigMap(
        max_positions=Default("max_position_embeddings", value=2048),
        norm_eps=Default("rms_norm_eps", value=1e-6),
        rope_theta=("rope_theta", Default("rope_parameters.rope_theta", value=10000.0)),
        head_dim=(),
        sliding_window=(),
        embedding_scale=Default("embedding_multiplier", value=1.0),
        residual_scale=Default("residual_multiplier", value=1.0),
        attention_scale=Default("attention_multiplier", value=1.0),
        logit_scale=Power("logits_scaling", -1, value=1.0),
    ),
)
