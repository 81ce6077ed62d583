"""GPT-NeoX and Pythia: parallel attention and mlp, a LayerNorm for each; rotation of a part of each head."""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "gpt_neox.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("GPTNeoXForCausalLM",),
    models={
        "gpt-neox-20b": "EleutherAI/gpt-neox-20b",
        "pythia-70m": "EleutherAI/pythia-70m",
        "pythia-160m": "EleutherAI/pythia-160m",
        "pythia-410m": "EleutherAI/pythia-410m",
        "pythia-1b": "EleutherAI/pythia-1b",
        "pythia-1.4b": "EleutherAI/pythia-1.4b",
        "pythia-2.8b": "EleutherAI/pythia-2.8b",
        "pythia-6.9b": "EleutherAI/pythia-6.9b",
        "pythia-12b": "EleutherAI/pythia-12b",
    },
    model_types=("gpt_neox",),
    defaults={
        "vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
        "num_attention_heads": 64, "hidden_act": "gelu", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": True, "attention_bias": True,
        "tie_word_embeddings": False,
    },
    config=ConfigMap(
        kv_heads="num_attention_heads",
        head_dim=(),
        norm_eps="layer_norm_eps",
        rope_theta="rotary_emb_base",
        rotary_fraction="rotary_pct",
    ),
    traits=Traits(
        norm="layer",
        mlp="plain",
        parallel_residual="use_parallel_residual",
        parallel_mlp_norm=True,
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        mlp_bias=True,
    ),
    weights=(
        Map("gpt_neox.embed_in", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "attention.query_key_value", ("attn.q", "attn.k", "attn.v"), fused="per_kv_head"),
        Map(L + "attention.dense", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.dense_h_to_4h", "mlp.up"),
        Map(L + "mlp.dense_4h_to_h", "mlp.down"),
        Map("gpt_neox.final_layer_norm", "final.norm"),
        Map("embed_out", "head"),
    ),
    ignore=("*.attention.bias", "*.attention.masked_bias", "*.attention.rotary_emb.inv_freq"),
)  # fmt: skip
