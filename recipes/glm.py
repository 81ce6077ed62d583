"""GLM-4 (9B) in transformers' format; `chatglm` reads the original files."""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("GlmForCausalLM",),
    models={"glm-4-9b-hf": "THUDM/glm-4-9b-hf", "glm-4-9b-chat-hf": "THUDM/glm-4-9b-chat-hf"},
    model_types=("glm",),
    defaults={
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-07, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5, "tie_word_embeddings": False, "attention_bias": True,
    },
    config=ConfigMap(rotary_fraction="partial_rotary_factor"),
    traits=Traits(rotary="interleaved", qkv_bias="attention_bias"),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_up_proj", ("mlp.gate", "mlp.up")),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
)  # fmt: skip
