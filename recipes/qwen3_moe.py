"""Qwen 3 with experts: Qwen 3's attention, top-k experts without a shared one, some dense layers."""

from dataclasses import replace

from compiler.model import ConfigMap, Map
from recipes import qwen3

L = qwen3.L
RECIPE = replace(
    qwen3.RECIPE,
    hf_architectures=("Qwen3MoeForCausalLM",),
    models={"qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B", "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B"},
    config=ConfigMap(experts=("num_experts", "num_local_experts")),  # transformers 5 writes the second
    traits=replace(qwen3.RECIPE.traits, mlp="moe", renormalize_experts="norm_topk_prob"),
    weights=(
        *qwen3.RECIPE.weights,  # its mlp is that of the dense layers
        Map(L + "mlp.gate", "moe.router"),
        Map(L + "mlp.experts.{expert}.gate_proj", "moe.gate"),
        Map(L + "mlp.experts.{expert}.up_proj", "moe.up"),
        Map(L + "mlp.experts.{expert}.down_proj", "moe.down"),
        # As transformers 5 saves them with save_original_format=False.
        Map(L + "mlp.experts.gate_up_proj", ("moe.gate", "moe.up"), stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", stacked=True),
    ),
    assumes={"use_sliding_window": False},  # transformers then gives every layer the window, whatever max_window_layers
)
