"""The tiny configurations: `TINY`, by case, as config.json or as the configuration of transformers spells them.

A case is named `<recipe>` or `<recipe>/<variant>`. The sizes are small but awkward on purpose: `head_dim` is
not `hidden / heads`, the vocabulary is odd, the sliding window is shorter than the tests' sequences. Every
recipe has a case that splits over 1, 2, 4 and 8 ranks; `llama/three-kv-heads` over 1, 3 and 6 only.

Token ids of every case: 0-255 the bytes, 256 `<s>`, 257 `</s>`, 258 `<pad>` (`benchmarks.testbed.text`).
"""

from __future__ import annotations

from typing import Any

VOCAB = 259
SPECIAL_IDS: dict[str, int] = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    **SPECIAL_IDS,
}
_MISTRAL: dict[str, Any] = {
    **LLAMA,
    "model_type": "mistral",
    "hidden_size": 80,
    "head_dim": 24,
    "num_key_value_heads": 4,
    "sliding_window": 8,
}
_MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 72,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
# Published Qwen2 configurations name a sliding window and switch it off: so does this one.
_QWEN2: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key != "head_dim"},
    "model_type": "qwen2",
    "hidden_size": 128,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 8,
    "max_window_layers": 3,
}
ROPE_LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_ROPE_LINEAR: dict[str, Any] = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

_QWEN2_MOE: dict[str, Any] = {
    **_QWEN2,
    "model_type": "qwen2_moe",
    "hidden_size": 64,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "norm_topk_prob": False,
    "mlp_only_layers": [1],
}
_QWEN3_MOE: dict[str, Any] = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "rms_norm_eps": 1e-6,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "mlp_only_layers": [1],
    "use_sliding_window": False,
}
_GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 8,
    "n_inner": None,
    "n_positions": 256,
    "vocab_size": VOCAB,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    **SPECIAL_IDS,
}
_GPTJ: dict[str, Any] = {
    **_GPT2,
    "model_type": "gptj",
    "n_embd": 96,
    "rotary_dim": 8,
    "tie_word_embeddings": False,
}
_GPT_NEOX: dict[str, Any] = {
    "model_type": "gpt_neox",
    "hidden_act": "gelu",
    "hidden_size": 128,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    **SPECIAL_IDS,
}
_STARCODER2: dict[str, Any] = {
    **{key: value for key, value in _QWEN2.items() if key not in ("rms_norm_eps", "max_window_layers")},
    "model_type": "starcoder2",
    "norm_epsilon": 1e-5,
    "hidden_act": "gelu_pytorch_tanh",
    "use_bias": True,
    "use_sliding_window": True,
    "tie_word_embeddings": True,
}
_GLM: dict[str, Any] = {
    **LLAMA,
    "model_type": "glm",
    "attention_bias": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
# Remote code: what stands in the published config.json.
_QWEN: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "model_type": "qwen",
    "hidden_size": 64,
    "intermediate_size": 288,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "kv_channels": 8,
    "vocab_size": VOCAB,
    "seq_length": 256,
    "max_position_embeddings": 1024,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "no_bias": True,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "tie_word_embeddings": False,
    **SPECIAL_IDS,
}
_BAICHUAN: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"],
    "model_type": "baichuan",
    "hidden_size": 64,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "hidden_act": "silu",
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    **SPECIAL_IDS,
}
# Forty heads make it a 13B, as they make the published one. No power of two: so are the slopes seen.
_BAICHUAN_13B: dict[str, Any] = {
    **{key: value for key, value in _BAICHUAN.items() if key != "max_position_embeddings"},
    "hidden_size": 160,
    "num_attention_heads": 40,
    "model_max_length": 256,
}
_CHATGLM: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "num_layers": 3,
    "padded_vocab_size": VOCAB,
    "hidden_size": 64,
    "ffn_hidden_size": 72,
    "kv_channels": 12,
    "num_attention_heads": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 256,
    "layernorm_epsilon": 1e-5,
    "rmsnorm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "post_layer_norm": True,
    "original_rope": True,
    "tie_word_embeddings": False,
    **SPECIAL_IDS,
}
_INTERNLM: dict[str, Any] = {
    **{key: value for key, value in _BAICHUAN.items() if key != "architectures"},
    "architectures": ["InternLMForCausalLM"],
    "model_type": "internlm",
    "bias": True,
    "rotary": {"base": 20000, "type": "dynamic"},
}
_INTERNLM2: dict[str, Any] = {
    **_BAICHUAN,
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "hidden_size": 128,
    "num_key_value_heads": 2,
    "bias": False,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
}
_SANTACODER: dict[str, Any] = {
    **_GPT2,
    "architectures": ["GPT2LMHeadCustomModel"],
    "attention_head_type": "multiquery",
    "activation_function": "gelu_fast",
}

_OLMO2: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key != "head_dim"},
    "model_type": "olmo2",
    "hidden_size": 128,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
}
_COHERE: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key not in ("head_dim", "rms_norm_eps")},
    "model_type": "cohere",
    "hidden_size": 128,
    "num_key_value_heads": 8,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "use_qk_norm": False,
    "attention_bias": False,
    "tie_word_embeddings": True,
}

YARN: dict[str, Any] = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_GPT_OSS: dict[str, Any] = {
    **LLAMA,
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_local_experts": 6,
    "num_experts_per_tok": 3,
    "sliding_window": 8,
    "attention_bias": True,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
}
_LLAMA4: dict[str, Any] = {
    **LLAMA,
    "model_type": "llama4_text",
    "hidden_size": 64,
    "intermediate_size": 40,
    "intermediate_size_mlp": 72,
    "num_local_experts": 6,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 2,
    "no_rope_layer_interval": 2,
    "attention_chunk_size": 8,
    "floor_scale": 4,
    "attn_scale": 0.4,
}
_DEEPSEEK_V2: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key != "head_dim"},
    "model_type": "deepseek_v2",
    "num_key_value_heads": 8,
    "hidden_size": 64,
    "q_lora_rank": None,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "topk_method": "greedy",
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
}
_DEEPSEEK_V3: dict[str, Any] = {
    **{key: value for key, value in _DEEPSEEK_V2.items() if key != "topk_method"},
    "model_type": "deepseek_v3",
    "q_lora_rank": 20,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
TINY: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama/equal-heads": {**LLAMA, "num_key_value_heads": 8},
    "llama/rope-llama3": {**LLAMA, "rope_parameters": ROPE_LLAMA3},
    "llama/rope-linear": {**LLAMA, "rope_parameters": _ROPE_LINEAR},
    "llama/tied": {**LLAMA, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "llama/biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama/three-kv-heads": {
        **LLAMA,
        "hidden_size": 60,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 20,
    },
    "mistral": _MISTRAL,
    "mistral/no-window": {**_MISTRAL, "sliding_window": None},
    "mixtral": _MIXTRAL,
    "mixtral/window": {**_MIXTRAL, "num_key_value_heads": 2, "sliding_window": 8},
    "qwen2": _QWEN2,
    "qwen2/tied": {**_QWEN2, "tie_word_embeddings": True},
    # The first layer attends to everything, the others through the window.
    "qwen2/window": {**_QWEN2, "use_sliding_window": True, "max_window_layers": 1},
    "qwen2_moe": _QWEN2_MOE,
    "qwen2_moe/all-sparse": {**_QWEN2_MOE, "mlp_only_layers": [], "norm_topk_prob": True},
    "qwen3": {**LLAMA, "model_type": "qwen3", "rms_norm_eps": 1e-6},
    "qwen3/tied": {**LLAMA, "model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
    "qwen3_moe": _QWEN3_MOE,
    "olmo2": _OLMO2,
    "olmo2/one-kv-head": {**_OLMO2, "num_key_value_heads": 1},
    "cohere": _COHERE,
    "cohere/qk-norm": {**_COHERE, "use_qk_norm": True, "num_key_value_heads": 2},
    "gemma": {**LLAMA, "model_type": "gemma", "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    "gemma/one-kv-head": {
        **LLAMA, "model_type": "gemma", "hidden_act": "gelu", "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
    "phi3": {**_MISTRAL, "model_type": "phi3", "head_dim": 10},
    "phi3/partial-rotation": {
        **_MISTRAL, "model_type": "phi3", "head_dim": 10, "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    },
    "glm": _GLM,
    "gpt2": _GPT2,
    "gpt2/narrow-mlp": {**_GPT2, "n_inner": 72},
    "gptj": _GPTJ,
    "gpt_neox": _GPT_NEOX,
    "gpt_neox/sequential": {**_GPT_NEOX, "use_parallel_residual": False, "hidden_act": "gelu_fast"},
    "starcoder": {**_GPT2, "model_type": "gpt_bigcode", "activation_function": "gelu_pytorch_tanh",
                  "multi_query": True},
    "starcoder/all-kv-heads": {**_GPT2, "model_type": "gpt_bigcode", "activation_function": "gelu",
                               "multi_query": False},
    "starcoder2": _STARCODER2,
    "starcoder2/no-bias": {**_STARCODER2, "use_bias": False, "sliding_window": None, "tie_word_embeddings": False},
    "santacoder": _SANTACODER,
    "qwen": _QWEN,
    "baichuan": {**_BAICHUAN, "architectures": ["BaiChuanForCausalLM"]},
    "baichuan/v1-13b": _BAICHUAN_13B,
    "baichuan/v2-7b": {**_BAICHUAN, "z_loss_weight": 0},
    "baichuan/v2-13b": {**_BAICHUAN_13B, "z_loss_weight": 0},
    "chatglm": _CHATGLM,
    "chatglm/2-long": {**_CHATGLM, "_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 4},
    "chatglm/3-long": {**_CHATGLM, "_name_or_path": "THUDM/chatglm3-6b-32k", "rope_ratio": 50,
                       "multi_query_group_num": 4},
    "internlm": _INTERNLM,
    "internlm/no-bias": {**_INTERNLM, "bias": False},
    "internlm2": _INTERNLM2,
    "gpt_oss": _GPT_OSS,
    "gpt_oss/no-bias": {**_GPT_OSS, "attention_bias": False},
    "gpt_oss/yarn": {**_GPT_OSS, "rope_parameters": {**YARN, "rope_theta": 150000.0, "truncate": False}},
    "deepseek_v3/yarn": {**_DEEPSEEK_V3, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    "deepseek_v2/yarn": {**_DEEPSEEK_V2, "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.5}},
    "llama4": _LLAMA4,
    "llama4/all-sparse": {
        **_LLAMA4, "interleave_moe_layer_step": 1, "no_rope_layer_interval": 3, "num_experts_per_tok": 2,
        "use_qk_norm": False, "attn_temperature_tuning": False, "attention_bias": True,
    },
    "deepseek_v2": _DEEPSEEK_V2,
    "deepseek_v2/groups": {
        **_DEEPSEEK_V2, "topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2, "q_lora_rank": 20,
        "routed_scaling_factor": 4.0,
    },
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v3/halves": {**_DEEPSEEK_V3, "rope_interleave": False, "attention_bias": True, "n_group": 1,
                           "topk_group": 1, "first_k_dense_replace": 0},
}  # fmt: skip
