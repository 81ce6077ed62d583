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
    # Published files have the names of several generations of transformers' BloomConfig. Alibi sets no limit of
    # positions: it is that of training.
    config=ConfigMap(
        layers=("n_layer", "num_hidden_layers"),
        hidden=("n_embed", "hidden_size"),
        heads=("n_head", "num_attention_heads"),
        kv_heads=("n_head", "num_attention_heads"),
        head_dim=(),
        ffn=(Default("", times=(4, "n_embed")), Default("", times=(4, "hidden_size"))),
        norm_eps=Default("layer_norm_epsilon", value=1e-5),
        max_positions=Default("seq_length", value=2048),
        sliding_window=(),
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
        tied=Default("tie_word_embeddings", value=True),
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
)
