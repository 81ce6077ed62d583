"""Gemma 2: norms around both blocks, softcaps of scores and of logits, a window in every second layer."""

from compiler.model import ConfigMap, Layers, Map, Power, Recipe, Traits

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
    model_types=("gemma2",),
    defaults={
        "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "attention_bias": False, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    },
    config=ConfigMap(
        sliding_window="sliding_window",
        attention_scale=Power("query_pre_attn_scalar", -0.5),
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
)  # fmt: skip
