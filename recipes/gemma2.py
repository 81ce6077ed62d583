"""Gemma 2: norms around both blocks, softcaps of scores and of logits, a window in every second layer."""

from compiler.model import ConfigMap, Default, Layers, Map, Power, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("Gemma2ForCausalLM",),
    models={
        "gemma2-2b": "google/gemma-2-2b",
        "gemma2-9b": "google/gemma-2-9b",
        "gemma2-27b": "google/gemma-2-27b",
        "gemma2-2b-it": "google/gemma-2-2b-it",
        "gemma2-9b-it": "google/gemma-2-9b-it",
        "gemma2-27b-it": "google/gemma-2-27b-it",
    },
    # Absent keys have the values of transformers' Gemma2Config.
    config=ConfigMap(
        head_dim=Default("head_dim", value=256),
        max_positions=Default("max_position_embeddings", value=8192),
        norm_eps=Default("rms_norm_eps", value=1e-6),
        rope_theta=("rope_theta", Default("rope_parameters.rope_theta", value=10000.0)),
        sliding_window=Default("sliding_window", value=4096),
        attention_scale=Power("query_pre_attn_scalar", -0.5, value=256),
        attention_softcap="attn_logit_softcapping",
        logit_softcap="final_logit_softcapping",
    ),
    traits=Traits(
        norm="rms_plus_one",
        norms="both",
        activation="hidden_activation",
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        embedding_scale="sqrt_hidden",
        tied=Default("tie_word_embeddings", value=True),
        windowed=Layers("layer_types", "sliding_attention", every=2),
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "attn.post_norm"),
        Map(L + "pre_feedforward_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map(L + "post_feedforward_layernorm", "mlp.post_norm"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"use_bidirectional_attention": False},
)
