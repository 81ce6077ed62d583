"""OLMo 2: Llama with norms behind the blocks instead of in front, and norms over q and over k of all heads."""

from dataclasses import replace

from compiler.model import Map, Traits
from recipes import llama

L = llama.L
RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("Olmo2ForCausalLM",),
    models={
        "olmo2-1b": "allenai/OLMo-2-0425-1B",
        "olmo2-7b": "allenai/OLMo-2-1124-7B",
        "olmo2-13b": "allenai/OLMo-2-1124-13B",
        "olmo2-32b": "allenai/OLMo-2-0325-32B",
    },
    model_types=("olmo2",),
    defaults={
        **llama.DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False,
    },
    traits=Traits(
        norm="rms_float32",
        norms="after",
        qk_norm=True,
        qk_norm_over="all_heads",
        qkv_bias="attention_bias",
        out_bias="attention_bias",
    ),
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "self_attn.q_proj", "attn.q"),
        Map(L + "self_attn.k_proj", "attn.k"),
        Map(L + "self_attn.v_proj", "attn.v"),
        Map(L + "self_attn.q_norm", "attn.q_heads_norm"),
        Map(L + "self_attn.k_norm", "attn.k_heads_norm"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "attn.post_norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map(L + "post_feedforward_layernorm", "mlp.post_norm"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
)  # fmt: skip
