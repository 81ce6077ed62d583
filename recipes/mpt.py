"""MPT: alibi positions, LayerNorm, no biases; q, k and v may be clipped."""

from compiler.model import ConfigMap, Default, Map, Recipe, Traits

L = "transformer.blocks.{layer}."
RECIPE = Recipe(
    hf_architectures=("MPTForCausalLM", "MptForCausalLM"),
    models={
        "mpt-7b": "mosaicml/mpt-7b",
        "mpt-7b-instruct": "mosaicml/mpt-7b-instruct",
        "mpt-30b": "mosaicml/mpt-30b",
        "mpt-30b-instruct": "mosaicml/mpt-30b-instruct",
    },
    model_types=("mpt",),
    defaults={
        "vocab_size": 50368, "d_model": 2048, "n_layers": 24, "n_heads": 16, "layer_norm_epsilon": 1e-5,
        "max_seq_len": 2048, "tie_word_embeddings": True,
    },
    config=ConfigMap(
        layers="n_layers",
        hidden="d_model",
        heads="n_heads",
        kv_heads="n_heads",
        head_dim=(),
        ffn=Default("", times=(4, "d_model")),
        norm_eps="layer_norm_epsilon",
        max_positions="max_seq_len",
        attention_scale="attn_config.softmax_scale",
        clip_qkv="attn_config.clip_qkv",
    ),
    traits=Traits(
        norm="layer",
        norm_bias=False,
        mlp="plain",
        activation="gelu",
        position="alibi",
    ),
    weights=(
        Map("transformer.wte", "embed"),
        Map(L + "norm_1", "attn.norm"),
        Map(L + "attn.Wqkv", ("attn.q", "attn.k", "attn.v")),
        Map(L + "attn.out_proj", "attn.o"),
        Map(L + "norm_2", "mlp.norm"),
        Map(L + "ffn.up_proj", "mlp.up"),
        Map(L + "ffn.down_proj", "mlp.down"),
        Map("transformer.norm_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={
        "no_bias": True, "expansion_ratio": 4, "logit_scale": (), "attn_config.alibi": True,
        "attn_config.alibi_bias_max": 8, "attn_config.attn_type": "multihead_attention", "attn_config.qk_ln": False,
        "attn_config.prefix_lm": False,
    },
)  # fmt: skip
