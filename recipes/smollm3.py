"""SmolLM3: Llama without rotary positions in every fourth layer."""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Layers, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("SmolLM3ForCausalLM",),
    models={"smollm3-3b": "HuggingFaceTB/SmolLM3-3B", "smollm3-3b-base": "HuggingFaceTB/SmolLM3-3B-Base"},
    # Absent keys have the values of transformers' SmolLM3Config.
    config=ConfigMap(
        kv_heads=Default("num_key_value_heads", value=4),
        max_positions=Default("max_position_embeddings", value=32768),
        norm_eps=Default("rms_norm_eps", value=1e-6),
        rope_theta=("rope_theta", Default("rope_parameters.rope_theta", value=2000000.0)),
    ),
    traits=Traits(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        mlp_bias="mlp_bias",
        tied=Default("tie_word_embeddings", value=True),
        rotated=Layers("no_rope_layers", 1, every=4, period="no_rope_layer_interval"),
    ),
    assumes={"use_sliding_window": False},
)
