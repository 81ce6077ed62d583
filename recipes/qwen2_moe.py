"""Qwen 1.5 and 2 with experts: Qwen 2's attention, top-k experts and a shared expert, some dense layers."""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Map, Traits
from recipes import llama

L = llama.L
RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("Qwen2MoeForCausalLM",),
    models={"qwen1.5-moe-a2.7b": "Qwen/Qwen1.5-MoE-A2.7B", "qwen2-57b-a14b": "Qwen/Qwen2-57B-A14B"},
    config=ConfigMap(experts="num_experts"),
    traits=Traits(
        mlp="moe",
        qkv_bias=Default("qkv_bias", value=True),
        renormalize_experts="norm_topk_prob",
        shared_expert_gate=True,
    ),
    weights=(
        *llama.RECIPE.weights,  # its mlp is that of the dense layers
        Map(L + "mlp.gate", "moe.router"),
        Map(L + "mlp.experts.{expert}.gate_proj", "moe.gate"),
        Map(L + "mlp.experts.{expert}.up_proj", "moe.up"),
        Map(L + "mlp.experts.{expert}.down_proj", "moe.down"),
        # As transformers 5 saves them with save_original_format=False.
        Map(L + "mlp.experts.gate_up_proj", ("moe.gate", "moe.up"), stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", stacked=True),
        Map(L + "mlp.shared_expert.gate_proj", "shared.gate"),
        Map(L + "mlp.shared_expert.up_proj", "shared.up"),
        Map(L + "mlp.shared_expert.down_proj", "shared.down"),
        Map(L + "mlp.shared_expert_gate", "shared.router"),
    ),
)
