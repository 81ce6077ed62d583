"""Tiny configurations of architectures with softcaps, factors, layers of several kinds, or alibi positions."""

from __future__ import annotations

from typing import Any

from tests.tiny_configs import LLAMA, SPECIAL_IDS, VOCAB

_HEADS_OF_HIDDEN: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key not in ("head_dim", "model_type")},
    "hidden_size": 128,
}
"""Sizes of architectures whose heads are `hidden / heads` wide."""
_GEMMA2: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key != "hidden_act"},
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 5.0,
    "sliding_window": 8,
    "tie_word_embeddings": True,
}
_GEMMA3: dict[str, Any] = {
    **_GEMMA2,  # its softcap of scores is there, and not read
    "model_type": "gemma3_text",
    "sliding_window_pattern": 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
_GRANITE: dict[str, Any] = {
    **_HEADS_OF_HIDDEN,
    "model_type": "granite",
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.1,
    "logits_scaling": 3.0,
}
_STABLELM: dict[str, Any] = {
    **{key: value for key, value in _HEADS_OF_HIDDEN.items() if key != "rms_norm_eps"},
    "model_type": "stablelm",
    "layer_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
_COHERE2: dict[str, Any] = {
    **{key: value for key, value in _HEADS_OF_HIDDEN.items() if key != "rms_norm_eps"},
    "model_type": "cohere2",
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
    "tie_word_embeddings": True,
}
_FALCON: dict[str, Any] = {
    "model_type": "falcon",
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    **SPECIAL_IDS,
}
_OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    **SPECIAL_IDS,
}
_BLOOM: dict[str, Any] = {
    "model_type": "bloom", "hidden_size": 64, "n_layer": 3, "n_head": 8, "vocab_size": VOCAB, **SPECIAL_IDS,
}  # fmt: skip
_MPT: dict[str, Any] = {
    "model_type": "mpt", "d_model": 64, "n_layers": 3, "n_heads": 8, "vocab_size": VOCAB, "max_seq_len": 256,
    **SPECIAL_IDS,
}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": _GEMMA2,
    "gemma2/no-softcap": {**_GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "gemma3": _GEMMA3,
    "gemma3/rope-linear": {
        **_GEMMA3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "granite": _GRANITE,
    "granite/biases": {**_GRANITE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "smollm3": {**_HEADS_OF_HIDDEN, "model_type": "smollm3", "no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "stablelm": _STABLELM,
    "stablelm/parallel": {**_STABLELM, "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True},
    "phi": {**_STABLELM, "model_type": "phi", "hidden_act": "gelu_new"},
    "cohere2": _COHERE2,
    "falcon": _FALCON,
    "falcon/two-norms": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon/one-norm": {
        **_FALCON, "new_decoder_architecture": True, "num_kv_heads": 4, "num_ln_in_parallel_attn": 1, "bias": True,
    },
    "falcon/alibi": {**_FALCON, "alibi": True, "bias": True, "multi_query": False, "parallel_attn": False},
    "opt": _OPT,
    "opt/no-bias": {**_OPT, "enable_bias": False, "tie_word_embeddings": False},
    "bloom": _BLOOM,
    "mpt": _MPT,
    "mpt/clipped": {**_MPT, "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.5}},
}  # fmt: skip
