"""DeepSeek-V2 and V2-Lite: latent attention, dense first layers, experts chosen by softmax, in groups or not."""

from dataclasses import replace

from compiler.model import Variant
from recipes import deepseek_v3

GROUPS = deepseek_v3.RECIPE.config
# DeepSeek's own code and transformers disagree on normalized shares.
ASSUMES = {"scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False, "mlp_bias": False}
RECIPE = replace(
    deepseek_v3.RECIPE,
    hf_architectures=("DeepseekV2ForCausalLM",),
    models={
        "deepseek-v2": "deepseek-ai/DeepSeek-V2",
        "deepseek-v2-lite": "deepseek-ai/DeepSeek-V2-Lite",
        "deepseek-coder-v2-lite": "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct",
    },
    model_types=("deepseek_v2",),
    defaults={
        **deepseek_v3.DEFAULTS, "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": None, "moe_intermediate_size": 1407, "first_k_dense_replace": 0,
        "n_group": None, "topk_group": None, "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    },
    aliases={"num_experts": "n_routed_experts"},
    config=replace(GROUPS, expert_groups=(), expert_groups_used=()),
    traits=replace(deepseek_v3.TRAITS, router="softmax", renormalize_experts=False),
    next_layers="",
    assumes={**ASSUMES, "topk_method": "greedy"},
    variants=(Variant("groups", {"topk_method": "group_limited_greedy"}, config=GROUPS, assumes=ASSUMES),),
)  # fmt: skip
