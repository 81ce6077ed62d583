"""Llama 4, its text model: attention in chunks, layers without positions, experts that read scaled inputs."""

from compiler.model import ConfigMap, Layers, Map, Recipe, Traits

L = "model.layers.{layer}."
ROTATED = Layers("no_rope_layers", 1, every=4, period="no_rope_layer_interval")
RECIPE = Recipe(
    hf_architectures=("Llama4ForCausalLM",),
    models={},
    model_types=("llama4_text",),
    defaults={
        "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "num_experts_per_tok": 1, "num_local_experts": 16, "moe_layers": None,
        "interleave_moe_layer_step": 1, "use_qk_norm": True, "no_rope_layer_interval": 4, "attention_chunk_size": 8192,
        "attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1, "attention_bias": False,
    },
    config=ConfigMap(
        ffn="intermediate_size_mlp", moe_ffn="intermediate_size", shared_ffn="intermediate_size",
        sliding_window="attention_chunk_size", sparse_layers="moe_layers", sparse_step="interleave_moe_layer_step",
        temperature_floor="floor_scale", temperature_scale="attn_scale",
    ),
    traits=Traits(
        mlp="moe",
        rotary="interleaved",
        qk_norm="use_qk_norm",
        qk_norm_over="rotated",
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        windowed=Layers("layer_types", "chunked_attention", 0, otherwise=ROTATED),
        chunked=True,
        rotated=ROTATED,
        temperature="attn_temperature_tuning",
        router="sigmoid_of_input",
        renormalize_experts=False,
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "feed_forward.gate_proj", "mlp.gate"),
        Map(L + "feed_forward.up_proj", "mlp.up"),
        Map(L + "feed_forward.down_proj", "mlp.down"),
        Map(L + "feed_forward.router", "moe.router"),
        Map(L + "feed_forward.experts.gate_up_proj", ("moe.gate", "moe.up"), layout="in out", stacked=True),
        Map(L + "feed_forward.experts.down_proj", "moe.down", layout="in out", stacked=True),
        Map(L + "feed_forward.shared_expert.gate_proj", "shared.gate"),
        Map(L + "feed_forward.shared_expert.up_proj", "shared.up"),
        Map(L + "feed_forward.shared_expert.down_proj", "shared.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
)  # fmt: skip
