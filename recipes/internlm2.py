"""InternLM 2: Llama with q, k, v interleaved per kv head in one matrix."""

from compiler.model import Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("InternLM2ForCausalLM",),
    models={
        "internlm2-1.8b": "internlm/internlm2-1_8b",
        "internlm2-7b": "internlm/internlm2-7b",
        "internlm2-20b": "internlm/internlm2-20b",
        "internlm2.5-7b": "internlm/internlm2_5-7b",
    },
    model_types=("internlm2",),
    # configuration_internlm2.py of the published checkpoints, 2024.
    defaults={
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "tie_word_embeddings": False, "bias": True,
    },
    traits=Traits(qkv_bias="bias", out_bias="bias"),
    weights=(
        Map("model.tok_embeddings", "embed"),
        Map(L + "attention_norm", "attn.norm"),
        Map(L + "attention.wqkv", ("attn.q", "attn.k", "attn.v"), fused="per_kv_head"),
        Map(L + "attention.wo", "attn.o"),
        Map(L + "ffn_norm", "mlp.norm"),
        Map(L + "feed_forward.w1", "mlp.gate"),
        Map(L + "feed_forward.w3", "mlp.up"),
        Map(L + "feed_forward.w2", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("output", "head"),
    ),
    ignore=("*.rotary_emb.inv_freq",),
)  # fmt: skip
