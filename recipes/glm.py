"""GLM-4 (9B) in transformers' format; `chatglm` reads the original files."""

from compiler.model import ConfigMap, Default, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("GlmForCausalLM",),
    models={"glm-4-9b-hf": "THUDM/glm-4-9b-hf", "glm-4-9b-chat-hf": "THUDM/glm-4-9b-chat-hf"},
    config=ConfigMap(
        rotary_fraction=("rope_parameters.partial_rotary_factor", Default("partial_rotary_factor", value=0.5))
    ),
    traits=Traits(rotary="interleaved", qkv_bias="attention_bias"),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_up_proj", ("mlp.gate", "mlp.up")),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
)
