"""Llama 1, 2, 3: RMS norm, rotary positions, grouped-query attention, SwiGLU."""

from compiler.model import Map, Recipe, Traits

L = "model.layers.{layer}."
DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
RECIPE = Recipe(
    hf_architectures=("LlamaForCausalLM",),
    models={
        "llama2-7b": "meta-llama/Llama-2-7b-hf",
        "llama2-13b": "meta-llama/Llama-2-13b-hf",
        "llama2-70b": "meta-llama/Llama-2-70b-hf",
        "llama3-8b": "meta-llama/Meta-Llama-3-8B",
        "llama3-70b": "meta-llama/Meta-Llama-3-70B",
        "llama3.1-8b": "meta-llama/Llama-3.1-8B",
        "llama3.1-70b": "meta-llama/Llama-3.1-70B",
        "llama3.2-1b": "meta-llama/Llama-3.2-1B",
        "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    },
    model_types=("llama",),
    defaults={**DEFAULTS, "attention_bias": False, "mlp_bias": False},
    traits=Traits(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias"),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*.rotary_emb.inv_freq",),
)
