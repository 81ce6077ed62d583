"""gpt-oss: attention sinks, windows in every other layer, biases, experts with a clamped SwiGLU."""

from compiler.model import Default, Map, Recipe, Traits

L = "model.layers.{layer}."
GATE_UP = ("moe.gate", "moe.up")
RECIPE = Recipe(
    hf_architectures=("GptOssForCausalLM",),
    models={"gpt-oss-20b": "openai/gpt-oss-20b", "gpt-oss-120b": "openai/gpt-oss-120b"},
    traits=Traits(
        norm="rms_float32",
        mlp="moe",
        activation="clamped_swiglu",
        qkv_bias=Default("attention_bias", value=True),
        out_bias=Default("attention_bias", value=True),
        router_bias=True,
        expert_bias=True,
        sinks=True,
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.sinks", "attn.sinks", bare=True),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.router", "moe.router"),
        Map(L + "mlp.experts.gate_up_proj", GATE_UP, fused="interleaved", layout="in out", stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", layout="in out", stacked=True),
        # as published in mxfp4: these are [experts, out, in] when they are dequantized
        Map(L + "mlp.experts.gate_up_proj_blocks", GATE_UP, fused="interleaved", stacked=True),
        Map(L + "mlp.experts.down_proj_blocks", "moe.down", stacked=True),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"swiglu_limit": 7.0, "swiglu_alpha": 1.702},
)
