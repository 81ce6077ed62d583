"""StarCoder2: Llama's attention with a sliding window, LayerNorm, a plain mlp, optional biases everywhere."""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("Starcoder2ForCausalLM",),
    models={
        "starcoder2-3b": "bigcode/starcoder2-3b",
        "starcoder2-7b": "bigcode/starcoder2-7b",
        "starcoder2-15b": "bigcode/starcoder2-15b",
    },
    model_types=("starcoder2",),
    defaults={
        "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
        "num_attention_heads": 24, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096, "norm_epsilon": 1e-5, "rope_theta": 10000.0, "use_bias": True,
        "tie_word_embeddings": True,
    },
    config=ConfigMap(norm_eps="norm_epsilon", sliding_window="sliding_window"),
    traits=Traits(
        norm="layer",
        mlp="plain",
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.c_fc", "mlp.up"),
        Map(L + "mlp.c_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"norm_type": "layer_norm", "mlp_type": "default"},
)  # fmt: skip
