"""SmolLM3: Llama without rotary positions in every fourth layer."""

from dataclasses import replace

from compiler.model import Layers, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("SmolLM3ForCausalLM",),
    models={"smollm3-3b": "HuggingFaceTB/SmolLM3-3B", "smollm3-3b-base": "HuggingFaceTB/SmolLM3-3B-Base"},
    model_types=("smollm3",),
    defaults={
        **llama.RECIPE.defaults,
        "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2000000.0,
        "tie_word_embeddings": True, "use_sliding_window": False,
    },
    config=replace(llama.RECIPE.config, sliding_window="sliding_window"),
    traits=Traits(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        mlp_bias="mlp_bias",
        rotated=Layers("no_rope_layers", 1, every=4, period="no_rope_layer_interval"),
        windowed=Layers("layer_types", "sliding_attention", every=0),  # named ones, whatever use_sliding_window says
    ),
    assumes={"use_sliding_window": False},
)  # fmt: skip
