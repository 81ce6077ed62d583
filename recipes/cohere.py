"""Command R and R+: parallel attention and mlp behind one LayerNorm without bias; logits are scaled."""

from compiler.model import ConfigMap, Map, Recipe, Traits

L = "model.layers.{layer}."
RECIPE = Recipe(
    hf_architectures=("CohereForCausalLM",),
    models={
        "command-r": "CohereForAI/c4ai-command-r-v01",
        "command-r-08-2024": "CohereForAI/c4ai-command-r-08-2024",
        "command-r-plus": "CohereForAI/c4ai-command-r-plus",
    },
    model_types=("cohere",),
    defaults={
        "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
        "num_attention_heads": 64, "hidden_act": "silu", "max_position_embeddings": 8192, "layer_norm_eps": 1e-5,
        "rope_theta": 500000.0, "logit_scale": 0.0625, "attention_bias": False, "use_qk_norm": False,
        "tie_word_embeddings": True,
    },
    config=ConfigMap(norm_eps="layer_norm_eps", logit_scale="logit_scale"),
    traits=Traits(
        norm="layer",
        norm_bias=False,
        rotary="interleaved",
        parallel_residual=True,
        qk_norm="use_qk_norm",
        qk_norm_over="per_head",
        qkv_bias="attention_bias",
        out_bias="attention_bias",
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.q_norm", "attn.q_heads_norm", layout="axes"),
        Map(L + "self_attn.k_norm", "attn.k_heads_norm", layout="axes"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
)  # fmt: skip
