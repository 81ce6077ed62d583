"""BLOOM: GPT with alibi positions, and a norm between the embedding and the first layer."""

from compiler.model import ConfigMap, Default, Map, Recipe, Traits

L = "h.{layer}."
RECIPE = Recipe(
    hf_architectures=("BloomForCausalLM", "BloomModel"),
    models={
        "bloom-560m": "bigscience/bloom-560m",
        "bloom-1b1": "bigscience/bloom-1b1",
        "bloom-1b7": "bigscience/bloom-1b7",
        "bloom-3b": "bigscience/bloom-3b",
        "bloom-7b1": "bigscience/bloom-7b1",
        "bloom": "bigscience/bloom",
        "bloomz-7b1": "bigscience/bloomz-7b1",
    },
    model_types=("bloom",),
    defaults={
        "vocab_size": 250880, "hidden_size": 64, "n_layer": 2, "n_head": 8, "layer_norm_epsilon": 1e-5,
        "seq_length": 2048, "tie_word_embeddings": True,
    },
    aliases={"n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    config=ConfigMap(
        layers="n_layer",
        heads="n_head",
        kv_heads="n_head",
        head_dim=(),
        ffn=Default("", times=(4, "hidden_size")),
        norm_eps="layer_norm_epsilon",
        max_positions="seq_length",  # that of training: alibi positions have no limit
    ),
    traits=Traits(
        norm="layer",
        mlp="plain",
        activation="gelu_new",
        position="alibi",
        embedding_norm=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    ),
    weights=(
        Map("word_embeddings", "embed"),
        Map("word_embeddings_layernorm", "embed.norm"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attention.query_key_value", ("attn.q", "attn.k", "attn.v"), fused="per_kv_head"),
        Map(L + "self_attention.dense", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.dense_h_to_4h", "mlp.up"),
        Map(L + "mlp.dense_4h_to_h", "mlp.down"),
        Map("ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"apply_residual_connection_post_layernorm": False},
    optional_prefix="transformer.",
)  # fmt: skip
