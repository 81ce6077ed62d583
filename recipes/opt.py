"""OPT: LayerNorm, learned positions from row 2 on, a plain mlp. The 350M, with norms after the blocks, is refused."""

from compiler.model import ConfigMap, Default, Map, Recipe, Traits

L = "decoder.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("OPTForCausalLM",),
    models={
        "opt-125m": "facebook/opt-125m",
        "opt-1.3b": "facebook/opt-1.3b",
        "opt-2.7b": "facebook/opt-2.7b",
        "opt-6.7b": "facebook/opt-6.7b",
        "opt-13b": "facebook/opt-13b",
        "opt-30b": "facebook/opt-30b",
        "opt-66b": "facebook/opt-66b",
    },
    # Absent keys have the values of transformers' OPTConfig; norms have torch's epsilon, which no key changes.
    config=ConfigMap(
        kv_heads="num_attention_heads",
        head_dim=(),
        ffn="ffn_dim",
        max_positions=Default("max_position_embeddings", value=2048),
        norm_eps=Default("", value=1e-5),
        sliding_window=(),
    ),
    traits=Traits(
        norm="layer",
        mlp="plain",
        activation="activation_function",
        position="learned",
        position_offset=2,
        qkv_bias=Default("enable_bias", value=True),
        out_bias=Default("enable_bias", value=True),
        mlp_bias=Default("enable_bias", value=True),
        tied=Default("tie_word_embeddings", value=True),
    ),
    weights=(
        Map("decoder.embed_tokens", "embed"),
        Map("decoder.embed_positions", "position"),
        Map(L + "self_attn_layer_norm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.out_proj", "attn.o"),
        Map(L + "final_layer_norm", "mlp.norm"),
        Map(L + "fc1", "mlp.up"),
        Map(L + "fc2", "mlp.down"),
        Map("decoder.final_layer_norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"do_layer_norm_before": True, "_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True},
    optional_prefix="model.",
)
