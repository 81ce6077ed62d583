"""Mixtral: Mistral's attention with top-k SwiGLU experts."""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "model.layers.{layer}."
DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "tie_word_embeddings": False, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
RECIPE = Recipe(
    hf_architectures=("MixtralForCausalLM",),
    models={
        "mixtral": "mistralai/Mixtral-8x7B-v0.1",
        "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
        "mixtral-8x7b-instruct": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "mixtral-8x22b": "mistralai/Mixtral-8x22B-v0.1",
    },
    model_types=("mixtral",),
    defaults=DEFAULTS,
    aliases={"num_experts": "num_local_experts"},
    config=ConfigMap(sliding_window="sliding_window"),
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
