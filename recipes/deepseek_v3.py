"""DeepSeek-V3 and R1: latent attention, dense first layers, experts in groups chosen by corrected sigmoids."""

from dataclasses import replace

from compiler.model import ConfigMap, Map, Recipe, Times, Traits, Variant

L = "model.layers.{layer}."
TRAITS = Traits(
    mlp="moe",
    rotary="interleaved",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    router="corrected_sigmoid",
    router_float32=True,
    renormalize_experts="norm_topk_prob",
)
RECIPE = Recipe(
    hf_architectures=("DeepseekV3ForCausalLM",),
    models={"deepseek-v3": "deepseek-ai/DeepSeek-V3", "deepseek-r1": "deepseek-ai/DeepSeek-R1"},
    config=ConfigMap(
        head_dim="v_head_dim",
        rotary_dim="qk_rope_head_dim",
        nope_dim="qk_nope_head_dim",
        q_rank="q_lora_rank",
        kv_rank="kv_lora_rank",
        experts="n_routed_experts",
        expert_groups="n_group",
        shared_ffn=Times("n_shared_experts", "moe_intermediate_size"),
        expert_groups_used="topk_group",
        routed_scale="routed_scaling_factor",
        first_sparse_layer="first_k_dense_replace",
    ),
    traits=TRAITS,
    weights=(
        Map("model.embed_tokens", "embed"),
        Map(L + "input_layernorm", "attn.norm"),
        Map(L + "self_attn.q_proj", "attn.q_whole"),
        Map(L + "self_attn.q_a_proj", "attn.q_a"),
        Map(L + "self_attn.q_a_layernorm", "attn.q_a_norm"),
        Map(L + "self_attn.q_b_proj", "attn.q_b"),
        Map(L + "self_attn.kv_a_proj_with_mqa", "attn.kv_a"),
        Map(L + "self_attn.kv_a_layernorm", "attn.kv_a_norm"),
        Map(L + "self_attn.kv_b_proj", "attn.kv_b"),
        Map(L + "self_attn.o_proj", "attn.o"),
        Map(L + "post_attention_layernorm", "mlp.norm"),
        Map(L + "mlp.gate_proj", "mlp.gate"),
        Map(L + "mlp.up_proj", "mlp.up"),
        Map(L + "mlp.down_proj", "mlp.down"),
        Map(L + "mlp.gate", "moe.router"),
        Map(L + "mlp.gate.e_score_correction_bias", "moe.correction", bare=True),
        Map(L + "mlp.experts.{expert}.gate_proj", "moe.gate"),
        Map(L + "mlp.experts.{expert}.up_proj", "moe.up"),
        Map(L + "mlp.experts.{expert}.down_proj", "moe.down"),
        Map(L + "mlp.experts.gate_up_proj", ("moe.gate", "moe.up"), stacked=True),
        Map(L + "mlp.experts.down_proj", "moe.down", stacked=True),
        Map(L + "mlp.shared_experts.gate_proj", "shared.gate"),
        Map(L + "mlp.shared_experts.up_proj", "shared.up"),
        Map(L + "mlp.shared_experts.down_proj", "shared.down"),
        Map("model.norm", "final.norm"),
        Map("lm_head", "head"),
    ),
    assumes={"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1},
    variants=(Variant("halves", {"rope_interleave": False}, traits=replace(TRAITS, rotary="half")),),
)
