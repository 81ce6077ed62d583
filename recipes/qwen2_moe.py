"""Qwen 1.5 and 2 with experts: Qwen 2's attention, top-k experts and a shared expert, some dense layers."""

from dataclasses import replace

from compiler.model import Map, Traits
from recipes import llama, qwen2

L = llama.L
RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("Qwen2MoeForCausalLM",),
    models={"qwen1.5-moe-a2.7b": "Qwen/Qwen1.5-MoE-A2.7B", "qwen2-57b-a14b": "Qwen/Qwen2-57B-A14B"},
    model_types=("qwen2_moe",),
    defaults={
        **qwen2.DEFAULTS,
        **qwen2.WINDOW_DEFAULTS,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "norm_topk_prob": False,
        "qkv_bias": True,
    },
    config=replace(
        qwen2.WINDOWS,
        experts="num_experts",
        dense_layers="mlp_only_layers",
        sparse_step="decoder_sparse_step",
    ),
    traits=Traits(
        mlp="moe",
        qkv_bias="qkv_bias",
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
    # transformers 4 gives the window to layers from max_window_layers on, transformers 5 to every second one below it.
    assumes={"use_sliding_window": False},
)
