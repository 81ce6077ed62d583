"""Names of tensors that several of vLLM's classes share, by file role (layout.py).

A name that ends in `.` or `_` is followed by `weight` or `bias`; others are whole. The prefix of a layer is put in
front of the names of its tensors. Source: files that vLLM 0.32.0 wrote (tests/targets/vllm/golden.json).
"""

from __future__ import annotations

from collections.abc import Mapping

Names = Mapping[str, str]

LLAMA: Names = {
    "embed": "model.embed_tokens.",
    "attn.norm": "input_layernorm.",
    "attn.qkv": "self_attn.qkv_proj.",
    "attn.q_norm": "self_attn.q_norm.",
    "attn.k_norm": "self_attn.k_norm.",
    "attn.o": "self_attn.o_proj.",
    "mlp.norm": "post_attention_layernorm.",
    "mlp.gate_up": "mlp.gate_up_proj.",
    "mlp.down": "mlp.down_proj.",
    "final.norm": "model.norm.",
    "head": "lm_head.",
}
EXPERTS: Names = {
    "moe.router": "mlp.gate.",
    "moe.correction": "mlp.experts.gate.e_score_correction_bias",
    "moe.gate_up": "mlp.experts.routed_experts.w13_",
    "moe.down": "mlp.experts.routed_experts.w2_",
    "shared.gate_up": "mlp.experts._shared_experts._layer.gate_up_proj.",
    "shared.down": "mlp.experts._shared_experts._layer.down_proj.",
    "shared.router": "mlp.experts._shared_experts._layer.expert_gate.",
}
ROUTER_INSIDE: Names = {"moe.router": "mlp.experts.gate."}
WITHOUT_HEAD: Names = {role: name for role, name in LLAMA.items() if role != "head"}
FOUR_NORMS: Names = {
    "attn.post_norm": "post_attention_layernorm.",
    "mlp.norm": "pre_feedforward_layernorm.",
    "mlp.post_norm": "post_feedforward_layernorm.",
}
LATENT: Names = {
    "attn.qkv_a": "self_attn.fused_qkv_a_proj.",
    "attn.q_a_norm": "self_attn.mla_attn.q_a_layernorm.",
    "attn.q_b": "self_attn.mla_attn.q_b_proj.",
    "attn.q_whole": "self_attn.mla_attn.q_proj.",
    "attn.kv_a": "self_attn.kv_a_proj_with_mqa.",
    "attn.kv_a_norm": "self_attn.kv_a_layernorm.",
    "attn.kv_b": "self_attn.kv_b_proj.",
    "attn.o": "self_attn.mla_attn.o_proj.",
}
GPT: Names = {
    "embed": "transformer.word_embeddings.",
    "attn.norm": "input_layernorm.",
    "attn.qkv": "self_attention.query_key_value.",
    "attn.o": "self_attention.dense.",
    "mlp.norm": "post_attention_layernorm.",
    "mlp.up": "mlp.dense_h_to_4h.",
    "mlp.down": "mlp.dense_4h_to_h.",
    "final.norm": "transformer.ln_f.",
    "head": "lm_head.",
}
GPT2: Names = {
    "embed": "transformer.wte.",
    "position": "transformer.wpe.",
    "attn.norm": "ln_1.",
    "attn.qkv": "attn.c_attn.",
    "attn.o": "attn.c_proj.",
    "mlp.norm": "ln_2.",
    "mlp.up": "mlp.c_fc.",
    "mlp.down": "mlp.c_proj.",
    "final.norm": "transformer.ln_f.",
    "head": "lm_head.",
}
INTERNLM2: Names = {
    "embed": "model.tok_embeddings.",
    "attn.norm": "attention_norm.",
    "attn.qkv": "attention.wqkv.",
    "attn.o": "attention.wo.",
    "mlp.norm": "ffn_norm.",
    "mlp.gate_up": "feed_forward.gate_up_proj.",
    "mlp.down": "feed_forward.w2.",
    "final.norm": "model.norm.",
    "head": "output.",
}
