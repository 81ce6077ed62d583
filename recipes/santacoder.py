"""SantaCoder: GPT-2 with one kv head, and q separate from k and v. `starcoder` reads its newer conversions."""

from dataclasses import replace

from compiler.model import Constant, Map
from recipes import gpt2

L = gpt2.L
RECIPE = replace(
    gpt2.RECIPE,
    hf_architectures=("GPT2LMHeadCustomModel",),
    models={"santacoder": "bigcode/santacoder"},
    model_types=(),
    config=replace(gpt2.CONFIG, kv_heads=Constant(1)),
    weights=(
        Map("wte", "embed"),
        Map("wpe", "position"),
        Map(L + "ln_1", "attn.norm"),
        Map(L + "attn.q_attn", "attn.q", layout="in out"),
        Map(L + "attn.kv_attn", ("attn.k", "attn.v"), layout="in out"),
        Map(L + "attn.c_proj", "attn.o", layout="in out"),
        Map(L + "ln_2", "mlp.norm"),
        Map(L + "mlp.c_fc", "mlp.up", layout="in out"),
        Map(L + "mlp.c_proj", "mlp.down", layout="in out"),
        Map("ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={**gpt2.RECIPE.assumes, "attention_head_type": "multiquery"},
)
