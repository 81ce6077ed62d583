"""GPT-J: parallel attention and mlp behind one LayerNorm; interleaved rotation of a part of each head."""

from compiler.model import ConfigMap, Constant, Default, Map, Recipe, Traits
from recipes import gpt2

L = "h.{layer}."
RECIPE = Recipe(
    hf_architectures=("GPTJForCausalLM",),
    models={"gptj": "EleutherAI/gpt-j-6b", "gptj-6b": "EleutherAI/gpt-j-6b"},
    model_types=("gptj",),
    defaults={
        "vocab_size": 50400, "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "rotary_dim": 64,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "tie_word_embeddings": False,
    },
    aliases=gpt2.ALIASES,
    config=ConfigMap(
        layers="n_layer",
        hidden="n_embd",
        heads="n_head",
        kv_heads="n_head",
        head_dim=(),
        ffn=Default("n_inner", times=(4, "n_embd")),
        norm_eps="layer_norm_epsilon",
        max_positions="n_positions",
        rope_theta=Constant(10000.0),
        rope_section=False,
        rotary_dim="rotary_dim",
    ),
    traits=Traits(
        norm="layer",
        mlp="plain",
        activation="activation_function",
        rotary="interleaved",
        parallel_residual=True,
        mlp_bias=True,
        head_bias=True,
    ),
    weights=(
        Map("wte", "embed"),
        Map(L + "ln_1", "attn.norm"),
        Map(L + "attn.q_proj", "attn.q"),
        Map(L + "attn.k_proj", "attn.k"),
        Map(L + "attn.v_proj", "attn.v"),
        Map(L + "attn.out_proj", "attn.o"),
        Map(L + "mlp.fc_in", "mlp.up"),
        Map(L + "mlp.fc_out", "mlp.down"),
        Map("ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*.attn.bias", "*.attn.masked_bias", "*.attn.embed_positions"),
    assumes={"rotary": True, "scale_attn_weights": True},
    optional_prefix="transformer.",
)  # fmt: skip
