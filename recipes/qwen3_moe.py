"""Qwen 3 with experts: Qwen 3's attention, top-k experts without a shared one, some dense layers."""

from dataclasses import replace

from compiler.model import ConfigMap, Map
from recipes import qwen2, qwen3

L = qwen3.L
RECIPE = replace(
    qwen3.RECIPE,
    hf_architectures=("Qwen3MoeForCausalLM",),
    models={"qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B", "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B"},
    model_types=("qwen3_moe",),
    defaults={
        **qwen2.DEFAULTS,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
    },
    aliases={"num_local_experts": "num_experts"},  # as transformers 5 writes it
    config=ConfigMap(experts="num_experts", dense_layers="mlp_only_layers", sparse_step="decoder_sparse_step"),
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
