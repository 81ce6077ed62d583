"""Phi-3: Llama with q, k, v in one matrix and gate, up in another. Long contexts have longrope."""

from compiler.model import ConfigMap, Map, Recipe

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("Phi3ForCausalLM",),
    models={
        "phi3-mini": "microsoft/Phi-3-mini-4k-instruct",
        "phi3-medium": "microsoft/Phi-3-medium-4k-instruct",
        "phi4": "microsoft/phi-4",
    },
    model_types=("phi3",),
    defaults={
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "partial_rotary_factor": 1.0,
    },
    config=ConfigMap(rotary_fraction="partial_rotary_factor", sliding_window="sliding_window"),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.qkv_proj", ("attn.q", "attn.k", "attn.v")),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_up_proj", ("mlp.gate", "mlp.up")),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"attention_bias": False},
)  # fmt: skip
