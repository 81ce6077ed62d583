"""StarCoder (GPTBigCode): GPT-2 with one kv head; linear layers are not stored transposed."""

from dataclasses import replace

from compiler.model import Flag, Map
from recipes import gpt2

L = gpt2.L
RECIPE = replace(
    gpt2.RECIPE,
    hf_architectures=("GPTBigCodeForCausalLM",),
    models={
        "starcoder": "bigcode/starcoder",
        "starcoderbase-1b": "bigcode/starcoderbase-1b",
        "starcoderbase-3b": "bigcode/starcoderbase-3b",
        "starcoderbase-7b": "bigcode/starcoderbase-7b",
        "gpt-bigcode-santacoder": "bigcode/gpt_bigcode-santacoder",
    },
    model_types=("gpt_bigcode",),
    defaults={**gpt2.DEFAULTS, "activation_function": "gelu_pytorch_tanh", "multi_query": True},
    config=replace(gpt2.CONFIG, kv_heads=Flag("multi_query", yes=1, no="n_head")),
    weights=(
        Map("wte", "embed"),
        Map("wpe", "position"),
        Map(L + "ln_1", "attn.norm"),
        # One kv head: rows of q, k, v. Without multi_query: q, k, v of the first head, of the second, ...
        Map(L + "attn.c_attn", ("attn.q", "attn.k", "attn.v"), fused="per_kv_head"),
        Map(L + "attn.c_proj", "attn.o"),
        Map(L + "ln_2", "mlp.norm"),
        Map(L + "mlp.c_fc", "mlp.up"),
        Map(L + "mlp.c_proj", "mlp.down"),
        Map("ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"scale_attn_weights": True, "add_cross_attention": False},
)
