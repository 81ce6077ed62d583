"""Random configs: a tiny case of a recipe with some keys changed to other values that its class allows, some keys of
config.json left out, and some added that only other architectures read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.tiny import TINY, recipe_of

BOOLEAN = (True, False)
EPS = (1e-6, 1e-5, 1e-3)
ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "quick_gelu", "mish")
CHOICES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ACTIVATIONS, "activation_function": ACTIVATIONS, "hidden_activation": ACTIVATIONS,
    "activation": ACTIVATIONS,
    "rms_norm_eps": EPS, "layer_norm_eps": EPS, "norm_epsilon": EPS, "layer_norm_epsilon": EPS,
    **dict.fromkeys(
        ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_bias", "qkv_bias", "norm_topk_prob", "use_qk_norm",
         "use_parallel_residual", "multi_query", "bias", "parallel_attn", "new_decoder_architecture", "alibi",
         "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "use_sliding_window",
         "qk_layernorm", "do_layer_norm_before", "enable_bias", "use_bidirectional_attention"), BOOLEAN,
    ),
    "sliding_window": (None, 5, 16, 64), "max_window_layers": (0, 1, 2, 28), "num_key_value_heads": (1, 2, 4, 8, None),
    "head_dim": (8, 10, 16, 24, None), "num_hidden_layers": (1, 2, 3, 4), "n_layer": (1, 2, 4),
    "intermediate_size": (48, 72, 144), "n_inner": (None, 48, 72), "vocab_size": (259, 300, 388),
    "max_position_embeddings": (256, 300, 512), "n_positions": (256, 300), "logit_scale": (0.0625, 0.5, 2.0),
    "num_experts_per_tok": (1, 2, 3), "mlp_only_layers": ([], [0], [1]), "decoder_sparse_step": (1, 2),
    "moe_intermediate_size": (16, 24), "shared_expert_intermediate_size": (24, 40), "rotary_dim": (4, 8),
    "final_logit_softcapping": (None, 5.0, 30.0), "attn_logit_softcapping": (None, 3.0, 50.0),
    "query_pre_attn_scalar": (16, 64, 224), "embedding_multiplier": (1.0, 12.0), "residual_multiplier": (1.0, 0.22),
    "attention_multiplier": (1.0, 0.1), "logits_scaling": (1.0, 8.0), "no_rope_layer_interval": (2, 4),
    "n_group": (1, 2), "routed_scaling_factor": (1.0, 2.5), "first_k_dense_replace": (0, 1), "kv_lora_rank": (16, 24),
}  # fmt: skip
NOISE: dict[str, tuple[Any, ...]] = {
    "sliding_window": (7, 64), "use_sliding_window": BOOLEAN, "max_window_layers": (1,),
    "partial_rotary_factor": (0.5,), "rotary_pct": (0.5,), "attention_bias": BOOLEAN, "mlp_bias": BOOLEAN,
    "logit_scale": (0.1,), "final_logit_softcapping": (3.0,), "embedding_multiplier": (3.0,), "num_local_experts": (4,),
    "original_max_position_embeddings": (64,), "rope_theta": (777.0,), "clip_qkv": (0.1,),
}  # fmt: skip
"""Keys that some architectures read; added where config.json has none."""
ABSENT = (
    "rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon", "hidden_act", "activation_function",
    "sliding_window", "use_sliding_window", "max_window_layers", "rope_parameters", "rope_theta", "rope_scaling",
    "attention_bias", "mlp_bias", "use_bias", "qkv_bias", "tie_word_embeddings", "dtype", "torch_dtype",
    "num_experts_per_tok", "norm_topk_prob", "logit_scale", "architectures", "layer_types",
)  # fmt: skip
"""Keys without a size: some are left out."""


@dataclass(frozen=True)
class Draw:
    """A config as the class takes it (`settings`); then `absent` keys leave config.json, and `noise` comes in."""

    case: str
    settings: dict[str, Any]
    absent: tuple[str, ...] = ()
    noise: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def draw(recipe: str, seed: int, known: set[str]) -> Draw:
    """Config number `seed` of a recipe. `known`: keys of the class."""
    random = Random(f"{recipe} {seed}")
    case = random.choice([case for case in TINY if recipe_of(case) == recipe])
    settings = dict(TINY[case])
    may = sorted(known & set(CHOICES))
    for key in random.sample(may, min(len(may), random.randint(0, 5))):
        settings[key] = random.choice(CHOICES[key])
    layers = settings.get("num_hidden_layers") or settings.get("n_layer")
    if "layer_types" in settings or ("layer_types" in known and random.random() < 0.3):
        settings["layer_types"] = [random.choice(("full_attention", "sliding_attention")) for _ in range(layers or 0)]
    nested = any(isinstance(value, dict) for value in (settings.get("rope_parameters") or {}).values())
    if "rope_parameters" in known and not nested and random.random() < 0.6:
        settings["rope_parameters"] = _rope(random, settings)
    absent = tuple(random.sample(ABSENT, random.randint(1, 3))) if random.random() < 0.4 else ()
    noise = {}
    if random.random() < 0.4:
        noise = {key: random.choice(NOISE[key]) for key in random.sample(sorted(NOISE), random.randint(1, 3))}
    return Draw(case, settings, absent, noise, seed)


def _rope(random: Random, settings: dict[str, Any]) -> dict[str, Any]:
    """Rope section; changes max_position_embeddings for dynamic scaling, whose effect begins there."""
    kind = random.choice(("default", "linear", "dynamic", "llama3", "yarn", "longrope"))
    found: dict[str, Any] = {"rope_type": kind, "rope_theta": random.choice((1000.0, 10000.0, 5e5))}
    given = (settings.get("rope_parameters") or {}).get("partial_rotary_factor")
    if given is not None:
        found["partial_rotary_factor"] = given
    if kind != "default":
        found["factor"] = random.choice((2.0, 4.0, 8.0))
    if kind == "dynamic":
        settings["max_position_embeddings"] = random.choice((128, 150))
        found["factor"] = 4.0
    if kind == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind in ("llama3", "yarn", "longrope"):
        found["original_max_position_embeddings"] = random.choice((32, 64, 128, 220))
    if kind == "yarn" and random.random() < 0.5:
        found |= random.choice(({"beta_fast": 16.0, "beta_slow": 2.0}, {"truncate": False}, {"attention_factor": 1.3},
                                {"mscale": 1.0, "mscale_all_dim": 0.7}))  # fmt: skip
    if kind == "longrope":
        hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
        pairs = int((settings.get("head_dim") or hidden // heads) * (given or 1.0)) // 2
        found["short_factor"] = [1.0 + 0.1 * i for i in range(pairs)]
        found["long_factor"] = [1.0 + 0.7 * i for i in range(pairs)]
        most = settings.get("max_position_embeddings")
        if most is None or random.random() < 0.5:
            found.pop("factor")
        elif random.random() < 0.8:  # else it contradicts the two lengths
            found["factor"] = most / found["original_max_position_embeddings"]
    return found
