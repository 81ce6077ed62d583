"""InternLM 1: Llama, with biases on all of attention if config.json sets `bias`."""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("InternLMForCausalLM",),
    models={"internlm-7b": "internlm/internlm-7b", "internlm-20b": "internlm/internlm-20b"},
    model_types=("internlm",),
    # configuration_internlm.py of the published checkpoints, 2023.
    defaults={
        "vocab_size": 103168, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "bias": True,
    },
    config=ConfigMap(
        kv_heads="num_attention_heads", head_dim=(), rope_theta=Default("rotary.base", value=10000), rope_section=False
    ),
    traits=Traits(qkv_bias="bias", out_bias="bias"),
    # Up to max_position_embeddings, "dynamic" rotation equals the plain one.
    assumes={"rotary.type": ("origin", "dynamic")},
)  # fmt: skip
