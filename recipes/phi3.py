"""Phi-3: Llama with q, k, v in one matrix and gate, up in another. Checkpoints with longrope are refused."""

from compiler.model import Map, Recipe

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("Phi3ForCausalLM",),
    models={
        "phi3-mini": "microsoft/Phi-3-mini-4k-instruct",
        "phi3-medium": "microsoft/Phi-3-medium-4k-instruct",
        "phi4": "microsoft/phi-4",
    },
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.qkv_proj", ("attn.q", "attn.k", "attn.v")),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_up_proj", ("mlp.gate", "mlp.up")),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"attention_bias": False},
)
