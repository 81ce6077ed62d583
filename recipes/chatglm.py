"""ChatGLM 2, ChatGLM 3 and GLM-4 in their original files: fused rows, interleaved rotation of half of a head.

ChatGLM 2 divides positions by `rope_ratio`, ChatGLM 3 and GLM-4 multiply the frequencies' base by it.
"""

from dataclasses import replace

from compiler.model import ConfigMap, Constant, Default, Map, Recipe, Traits, Variant

L = "transformer.encoder.layers.{layer}."
BASE = Constant(10000.0)
PLAIN = ConfigMap(
    layers="num_layers",
    kv_heads="multi_query_group_num",
    head_dim="kv_channels",
    ffn="ffn_hidden_size",
    vocab="padded_vocab_size",
    norm_eps="layernorm_epsilon",
    max_positions="seq_length",
    rope_theta=BASE,
    rope_section=False,
    rotary_fraction=Constant(0.5),
)
LINEAR = replace(PLAIN, rope_linear="rope_ratio")
RATIO = replace(PLAIN, rope_theta=Default("", times=(10000, "rope_ratio")))
ASSUMES = {
    "rmsnorm": True, "post_layer_norm": True, "apply_residual_connection_post_layernorm": False,
    "add_bias_linear": False, "multi_query_attention": True, "original_rope": True,
}  # fmt: skip
SECOND = ("THUDM/chatglm2-6b", "THUDM/chatglm2-6b-32k")
THIRD = ("THUDM/chatglm3-6b", "THUDM/chatglm3-6b-base", "THUDM/chatglm3-6b-32k", "THUDM/chatglm3-6b-128k")
RECIPE = Recipe(
    hf_architectures=("ChatGLMModel", "ChatGLMForConditionalGeneration"),
    models={"chatglm2-6b": SECOND[0], "chatglm3-6b": THIRD[0], "glm-4-9b": "THUDM/glm-4-9b"},
    model_types=("chatglm",),
    # configuration_chatglm.py of the published checkpoints, 2023.
    defaults={
        "num_layers": 28, "padded_vocab_size": 65024, "hidden_size": 4096, "ffn_hidden_size": 13696, "kv_channels": 128,
        "num_attention_heads": 32, "multi_query_group_num": 1, "seq_length": 2048, "layernorm_epsilon": 1e-5,
        "add_qkv_bias": False, "rope_ratio": 1, "tie_word_embeddings": False,
    },
    config=PLAIN,
    traits=Traits(activation="silu", rotary="interleaved", qkv_bias="add_qkv_bias"),
    weights=(
        Map("transformer.embedding.word_embeddings", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attention.query_key_value", ("attn.q", "attn.k", "attn.v")),
        Map(L + "self_attention.dense", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.dense_h_to_4h", ("mlp.gate", "mlp.up")),
        Map(L + "mlp.dense_4h_to_h", "mlp.down"),
        Map("transformer.encoder.final_layernorm", "final.norm"),
        Map("transformer.output_layer", "head"),
    ),
    ignore=("transformer.rotary_pos_emb.inv_freq",),
    assumes={**ASSUMES, "rope_ratio": 1},  # other values need a variant
    variants=(
        Variant("glm4", {"padded_vocab_size": 151552}, config=RATIO, assumes=ASSUMES),
        Variant("chatglm3", {"_name_or_path": THIRD}, config=RATIO, assumes=ASSUMES),
        Variant("chatglm2", {"_name_or_path": SECOND}, config=LINEAR, assumes=ASSUMES),
    ),
)  # fmt: skip
