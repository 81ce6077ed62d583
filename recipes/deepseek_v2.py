"""DeepSeek-V2 and V2-Lite: latent attention, dense first layers, experts chosen by softmax, in groups or not."""

from dataclasses import replace

from compiler.model import Variant
from recipes import deepseek_v3

GROUPS = deepseek_v3.RECIPE.config
RECIPE = replace(
    deepseek_v3.RECIPE,
    hf_architectures=("DeepseekV2ForCausalLM",),
    models={
        "deepseek-v2": "deepseek-ai/DeepSeek-V2",
        "deepseek-v2-lite": "deepseek-ai/DeepSeek-V2-Lite",
        "deepseek-coder-v2-lite": "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct",
    },
    config=replace(GROUPS, expert_groups=(), expert_groups_used=()),
    traits=replace(deepseek_v3.TRAITS, router="softmax", renormalize_experts=False),
    # DeepSeek's own code and transformers disagree on normalized shares
    assumes={
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "mlp_bias": False,
    },
    variants=(
        Variant(
            "groups",
            {"topk_method": "group_limited_greedy"},
            config=GROUPS,
            assumes={"scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False, "mlp_bias": False},
        ),
    ),
)
