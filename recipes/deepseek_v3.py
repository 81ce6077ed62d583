"""DeepSeek-V3 and R1: latent attention, dense first layers, experts in groups chosen by corrected sigmoids."""

from dataclasses import replace

from compiler.model import ConfigMap, Constant, Map, Recipe, Times, Traits, Variant

L, X = "model.layers.{layer}.", "mlp.experts.{expert}."
DEFAULTS = {
    "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,
    "n_group": 8, "topk_group": 4, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
}  # fmt: skip
TRAITS = Traits(
    mlp="moe", rotary="interleaved", qkv_bias="attention_bias", out_bias="attention_bias", router="corrected_sigmoid",
    router_float32=True, renormalize_experts="norm_topk_prob",
)  # fmt: skip
RECIPE = Recipe(
    hf_architectures=("DeepseekV3ForCausalLM",),
    models={"deepseek-v3": "deepseek-ai/DeepSeek-V3", "deepseek-r1": "deepseek-ai/DeepSeek-R1"},
    model_types=("deepseek_v3",),
    defaults={**DEFAULTS, "num_nextn_predict_layers": 1},
    aliases={"num_local_experts": "n_routed_experts"},
    config=ConfigMap(
        kv_heads=Constant(1), head_dim="v_head_dim", rotary_dim="qk_rope_head_dim", nope_dim="qk_nope_head_dim",
        q_rank="q_lora_rank", kv_rank="kv_lora_rank", experts="n_routed_experts", expert_groups="n_group",
        shared_ffn=Times("n_shared_experts", "moe_intermediate_size"), expert_groups_used="topk_group",
        routed_scale="routed_scaling_factor", first_sparse_layer="first_k_dense_replace",
    ),
    traits=TRAITS,
    weights=(
        Map("model.embed_tokens", "embed"), Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q_whole"),
        Map(L + "self_attn.q_a_proj", "attn.q_a"), Map(L + "self_attn.q_b_proj", "attn.q_b"),
        Map(L + "self_attn.q_a_layernorm", "attn.q_a_norm"),
        Map(L + "self_attn.kv_a_proj_with_mqa", "attn.kv_a"), Map(L + "self_attn.kv_b_proj", "attn.kv_b"),
        Map(L + "self_attn.kv_a_layernorm", "attn.kv_a_norm"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"), Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map(L + "mlp.gate", "moe.router"),
        Map(L + "mlp.gate.e_score_correction_bias", "moe.correction", bare=True),
        Map(L + X + "gate_proj", "moe.gate"), Map(L + X + "up_proj", "moe.up"), Map(L + X + "down_proj", "moe.down"),
        Map(L + "mlp.experts.gate_up_proj", ("moe.gate", "moe.up"), stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", stacked=True),
        Map(L + "mlp.shared_experts.gate_proj", "shared.gate"), Map(L + "mlp.shared_experts.up_proj", "shared.up"),
        Map(L + "mlp.shared_experts.down_proj", "shared.down"),
        Map("model.norm", "final.norm"), Map("lm_head", "head"),
    ),
    assumes={"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1},
    next_layers="num_nextn_predict_layers",
    variants=(Variant("halves", {"rope_interleave": False}, traits=replace(TRAITS, rotary="half")),),
)  # fmt: skip
