"""StableLM 3B, 2 and Zephyr: Llama with LayerNorm and rotation of a quarter of each head; the 12B computes attention
and mlp in parallel, with a norm for each head of q and k.
"""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("StableLmForCausalLM",),
    models={
        "stablelm-3b": "stabilityai/stablelm-3b-4e1t",
        "stablelm-zephyr-3b": "stabilityai/stablelm-zephyr-3b",
        "stablelm2-1.6b": "stabilityai/stablelm-2-1_6b",
        "stablelm2-zephyr-1.6b": "stabilityai/stablelm-2-zephyr-1_6b",
        "stablelm2-12b": "stabilityai/stablelm-2-12b",
    },
    model_types=("stablelm",),
    defaults={
        "vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu", "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "tie_word_embeddings": False,
        "use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False,
    },
    config=ConfigMap(
        head_dim=(),
        norm_eps="layer_norm_eps",
        rotary_fraction="partial_rotary_factor",
    ),
    traits=Traits(
        norm="layer",
        parallel_residual="use_parallel_residual",
        qk_norm="qk_layernorm",
        qk_norm_over="per_head",
        qkv_bias="use_qkv_bias",
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.q_layernorm.norms.{head}", "attn.q_heads_norm"),
        Map(L + "self_attn.k_layernorm.norms.{head}", "attn.k_heads_norm"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*.rotary_emb.inv_freq",),
)  # fmt: skip
