"""Falcon: 7B (one kv head, one norm for parallel blocks), 40B and 180B (kv heads, two norms), Falcon 2 11B (kv heads,
one norm), and RefinedWeb (alibi positions, blocks in sequence).
"""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Flag, Map, Recipe, Traits, Variant

L = "transformer.h.{layer}."
CONFIG = ConfigMap(
    kv_heads=Flag("multi_query", yes=1, no="num_attention_heads", absent=True),
    head_dim=(),
    ffn=("ffn_hidden_size", Default("", times=(4, "hidden_size"))),
    norm_eps=Default("layer_norm_epsilon", value=1e-5),
    max_positions=Default("max_position_embeddings", value=2048),
    rope_theta=("rope_theta", Default("rope_parameters.rope_theta", value=10000.0)),
    sliding_window=(),
)
GROUPED = replace(CONFIG, kv_heads=("num_kv_heads", "num_attention_heads"))
TRAITS = Traits(
    norm="layer",
    mlp="plain",
    activation="gelu",
    parallel_residual=Default("parallel_attn", value=True),
    qkv_bias="bias",
    out_bias="bias",
    mlp_bias="bias",
    tied=Default("tie_word_embeddings", value=True),
)
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
    assumes={"activation": "gelu", "apply_residual_connection_post_layernorm": False},
    variants=(
        Variant("one-norm", {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}, config=GROUPED),
        Variant("two-norms", {"new_decoder_architecture": True}, replace(TRAITS, parallel_mlp_norm=True), GROUPED),
        Variant("alibi", {"alibi": True}, replace(TRAITS, position="alibi", alibi="rounded_keys")),
    ),
)
