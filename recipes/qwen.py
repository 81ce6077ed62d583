"""Qwen 1: fused q, k, v with biases; `intermediate_size` is the sum of gate and up.

Beyond `seq_length` Qwen 1 rescales queries (logn) and rotation (dynamic NTK). Up to it, the limit of all builds here,
both are the identity.
"""

from compiler.model import ConfigMap, Half, Map, Recipe, Traits

L = "h.{layer}."
RECIPE = Recipe(
    hf_architectures=("QWenLMHeadModel",),
    models={
        "qwen-1.8b": "Qwen/Qwen-1_8B",
        "qwen-7b": "Qwen/Qwen-7B",
        "qwen-14b": "Qwen/Qwen-14B",
        "qwen-72b": "Qwen/Qwen-72B",
    },
    model_types=("qwen",),
    # configuration_qwen.py of the published checkpoints, 2023.
    defaults={
        "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "kv_channels": 128, "tie_word_embeddings": False,
    },
    config=ConfigMap(
        kv_heads="num_attention_heads",
        head_dim="kv_channels",
        ffn=Half("intermediate_size"),
        norm_eps="layer_norm_epsilon",
        max_positions="seq_length",
        rope_theta="rotary_emb_base",
        rope_section=False,
    ),
    traits=Traits(activation="silu", qkv_bias=True),
    weights=(
        Map("wte", "embed"),
        Map(L + "ln_1", "attn.norm"),
        Map(L + "attn.c_attn", ("attn.q", "attn.k", "attn.v")),
        Map(L + "attn.c_proj", "attn.o"),
        Map(L + "ln_2", "mlp.norm"),
        Map(L + "mlp.w2", "mlp.gate"),  # c_proj(w1(x) * silu(w2(x)))
        Map(L + "mlp.w1", "mlp.up"),
        Map(L + "mlp.c_proj", "mlp.down"),
        Map("ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*rotary_emb.inv_freq", "*.attn.masked_bias"),
    assumes={"no_bias": True, "scale_attn_weights": True},
    optional_prefix="transformer.",
)  # fmt: skip
