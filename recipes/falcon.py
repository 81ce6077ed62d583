"""Falcon: 7B (one kv head, one norm for parallel blocks), 40B and 180B (kv heads, two norms), Falcon 2 11B (kv heads,
one norm), and RefinedWeb (alibi positions, blocks in sequence).
"""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Flag, Map, Recipe, Traits, Variant

L = "transformer.h.{layer}."
CONFIG = ConfigMap(
    kv_heads=Flag("multi_query", yes=1, no="num_attention_heads"),
    head_dim=(),
    ffn=Default("ffn_hidden_size", times=(4, "hidden_size")),
    norm_eps="layer_norm_epsilon",
)
GROUPED = replace(CONFIG, kv_heads=Default("num_kv_heads", times=(1, "num_attention_heads")))
TRAITS = Traits(
    norm="layer",
    mlp="plain",
    activation="activation",
    parallel_residual="parallel_attn",
    qkv_bias="bias",
    out_bias="bias",
    mlp_bias="bias",
)
ALIBI = replace(TRAITS, position="alibi", alibi="rounded_keys")
RECIPE = Recipe(
    hf_architectures=("FalconForCausalLM",),
    models={
        "falcon-7b": "tiiuae/falcon-7b",
        "falcon-7b-instruct": "tiiuae/falcon-7b-instruct",
        "falcon-40b": "tiiuae/falcon-40b",
        "falcon-40b-instruct": "tiiuae/falcon-40b-instruct",
        "falcon-180b": "tiiuae/falcon-180B",
        "falcon2-11b": "tiiuae/falcon-11B",
        "falcon-rw-1b": "tiiuae/falcon-rw-1b",
    },
    model_types=("falcon",),
    defaults={
        "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
        "activation": "gelu", "layer_norm_epsilon": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0,
        "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False, "new_decoder_architecture": False,
        "tie_word_embeddings": True,
    },
    aliases={"n_embed": "hidden_size"},
    config=CONFIG,
    traits=TRAITS,
    weights=(
        Map("transformer.word_embeddings", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "ln_attn", "attn.norm"),
        Map(L + "self_attention.query_key_value", ("attn.q", "attn.k", "attn.v"), fused="per_kv_head"),
        Map(L + "self_attention.dense", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "ln_mlp", "mlp.norm"),
        Map(L + "mlp.dense_h_to_4h", "mlp.up"),
        Map(L + "mlp.dense_4h_to_h", "mlp.down"),
        Map("transformer.ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"alibi": False, "apply_residual_connection_post_layernorm": False},
    variants=(
        Variant("one-norm", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}, config=GROUPED),
        Variant("two-norms", {"new_decoder_architecture": True}, replace(TRAITS, parallel_mlp_norm=True), GROUPED),
        Variant("alibi", {"alibi": True}, ALIBI, assumes={"alibi": True}),
    ),
)  # fmt: skip
