"""GPT-2: LayerNorm, learned positions, a plain mlp, every bias; linear layers are stored transposed."""

from compiler.model import ConfigMap, Default, Map, Recipe, Traits

L = "h.{layer}."
DEFAULTS = {
    "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new", "tie_word_embeddings": True,
}  # fmt: skip
ALIASES = {
    "hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
CONFIG = ConfigMap(
    layers="n_layer",
    hidden="n_embd",
    heads="n_head",
    kv_heads="n_head",
    head_dim=(),
    ffn=Default("n_inner", times=(4, "n_embd")),
    norm_eps="layer_norm_epsilon",
    max_positions="n_positions",
)
TRAITS = Traits(
    norm="layer",
    mlp="plain",
    activation="activation_function",
    position="learned",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
)
RECIPE = Recipe(
    hf_architectures=("GPT2LMHeadModel",),
    models={
        "gpt2": "openai-community/gpt2",
        "gpt2-medium": "openai-community/gpt2-medium",
        "gpt2-large": "openai-community/gpt2-large",
        "gpt2-xl": "openai-community/gpt2-xl",
    },
    model_types=("gpt2",),
    defaults=DEFAULTS,
    aliases=ALIASES,
    config=CONFIG,
    traits=TRAITS,
    weights=(
        Map("wte", "embed"),
        Map("wpe", "position"),
        Map(L + "ln_1", "attn.norm"),
        Map(L + "attn.c_attn", ("attn.q", "attn.k", "attn.v"), layout="in out"),
        Map(L + "attn.c_proj", "attn.o", layout="in out"),
        Map(L + "ln_2", "mlp.norm"),
        Map(L + "mlp.c_fc", "mlp.up", layout="in out"),
        Map(L + "mlp.c_proj", "mlp.down", layout="in out"),
        Map("ln_f", "final.norm"),
        Map("lm_head", "head"),
    ),
    ignore=("*.attn.bias", "*.attn.masked_bias"),  # the causal mask
    assumes={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    optional_prefix="transformer.",
)
