"""Phi-1, 1.5 and 2: parallel attention and mlp behind one LayerNorm, rotation of a part of each head, every bias."""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("PhiForCausalLM",),
    models={"phi-1": "microsoft/phi-1", "phi-1.5": "microsoft/phi-1_5", "phi-2": "microsoft/phi-2"},
    model_types=("phi",),
    defaults={
        "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
        "num_attention_heads": 32, "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "tie_word_embeddings": False,
    },
    config=ConfigMap(
        norm_eps="layer_norm_eps",
        rotary_fraction="partial_rotary_factor",
    ),
    traits=Traits(
        norm="layer",
        mlp="plain",
        parallel_residual=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.dense", "attn.o"),
        Map(L + "mlp.fc1", "mlp.up"),
        Map(L + "mlp.fc2", "mlp.down"),
        Map("model.final_layernorm", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*.rotary_emb.inv_freq",),
    assumes={"qk_layernorm": False},
)  # fmt: skip
