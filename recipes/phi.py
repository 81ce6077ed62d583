"""Phi-1, 1.5 and 2: parallel attention and mlp behind one LayerNorm, rotation of a part of each head, every bias."""

from compiler.model import ConfigMap, Default, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("PhiForCausalLM",),
    models={"phi-1": "microsoft/phi-1", "phi-1.5": "microsoft/phi-1_5", "phi-2": "microsoft/phi-2"},
    # Absent keys have the values of transformers' PhiConfig.
    config=ConfigMap(
        head_dim=(),
        max_positions=Default("max_position_embeddings", value=2048),
        norm_eps=Default("layer_norm_eps", value=1e-5),
        rope_theta=("rope_theta", Default("rope_parameters.rope_theta", value=10000.0)),
        rotary_fraction=("partial_rotary_factor", Default("rope_parameters.partial_rotary_factor", value=0.5)),
        sliding_window=(),
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
)
