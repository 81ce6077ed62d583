"""OPT: LayerNorm, learned positions from row 2 on, a plain mlp. The 350M, with norms after the blocks, is refused."""

from compiler.model import ConfigMap, Constant, Map, Recipe, Traits

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
    model_types=("opt",),
    defaults={
        "vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "activation_function": "relu", "max_position_embeddings": 2048, "enable_bias": True,
        "tie_word_embeddings": True,
    },
    config=ConfigMap(
        kv_heads="num_attention_heads",
        head_dim=(),
        ffn="ffn_dim",
        norm_eps=Constant(1e-5),  # torch's: no key changes it
    ),
    traits=Traits(
        norm="layer",
        mlp="plain",
        activation="activation_function",
        position="learned",
        position_offset=2,
        qkv_bias="enable_bias",
        out_bias="enable_bias",
        mlp_bias="enable_bias",
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
)  # fmt: skip
