"""gpt-oss: attention sinks, windows in every other layer, biases, experts with a clamped SwiGLU."""

from compiler.model import ConfigMap, Layers, Map, Recipe, Traits

L = "model.layers.{layer}."
GATE_UP = ("moe.gate", "moe.up")
RECIPE = Recipe(
    hf_architectures=("GptOssForCausalLM",),
    models={"gpt-oss-20b": "openai/gpt-oss-20b", "gpt-oss-120b": "openai/gpt-oss-120b"},
    model_types=("gpt_oss",),
    defaults={
        "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "tie_word_embeddings": False, "sliding_window": 128,
        "attention_bias": True, "num_local_experts": 128, "num_experts_per_tok": 4,
        "rope_parameters": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    },
    aliases={"num_experts": "num_local_experts"},
    config=ConfigMap(sliding_window="sliding_window", moe_ffn="intermediate_size"),
    traits=Traits(
        norm="rms_float32",
        mlp="moe",
        activation="clamped_swiglu",
        activations={"clamped_swiglu": "clamped_swiglu"},
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        windowed=Layers("layer_types", "sliding_attention", every=2),
        router_bias=True,
        expert_bias=True,
        sinks=True,
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.sinks", "attn.sinks", bare=True),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.router", "moe.router"),
        Map(L + "mlp.experts.gate_up_proj", GATE_UP, fused="interleaved", layout="in out", stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", layout="in out", stacked=True),
        # As published in mxfp4: [experts, out, in] when they are dequantized.
        Map(L + "mlp.experts.gate_up_proj_blocks", GATE_UP, fused="interleaved", stacked=True),
        Map(L + "mlp.experts.down_proj_blocks", "moe.down", stacked=True),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"swiglu_limit": 7.0, "swiglu_alpha": 1.702},
)  # fmt: skip
