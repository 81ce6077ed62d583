"""Mixtral: Mistral's attention with top-k SwiGLU experts."""

from compiler.model import Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("MixtralForCausalLM",),
    models={
        "mixtral": "mistralai/Mixtral-8x7B-v0.1",
        "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
        "mixtral-8x7b-instruct": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "mixtral-8x22b": "mistralai/Mixtral-8x22B-v0.1",
    },
    traits=Traits(mlp="moe", renormalize_experts=True),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "block_sparse_moe.gate", "moe.router"),
        Map(L + "block_sparse_moe.experts.{expert}.w1", "moe.gate"),
        Map(L + "block_sparse_moe.experts.{expert}.w3", "moe.up"),
        Map(L + "block_sparse_moe.experts.{expert}.w2", "moe.down"),
        # As transformers 5 saves them with save_original_format=False.
        Map(L + "mlp.gate", "moe.router"),
        Map(L + "mlp.experts.gate_up_proj", ("moe.gate", "moe.up"), stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", stacked=True),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
)
