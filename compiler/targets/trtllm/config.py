"""config.json of a checkpoint, by version.

TensorRT-LLM unpacks `mapping`, `quantization` and `moe` into constructors, where a surplus key is an error: each holds
the smallest set for its version. Sizes are global, never per rank; `vocab_size` is the model's, unpadded.

| version     | experts                                  | mapping                          | quantization           |
|-------------|------------------------------------------|----------------------------------|------------------------|
| 0.8         | moe_num_experts, moe_top_k, moe_tp_mode  | world_size, tp_size, pp_size     | with sq_use_plugin     |
| 0.9, 0.10   | the same, flat                           | the same                         | quant_algo ...         |
| from 0.11   | moe {num_experts, top_k, ...}            | and moe_tp_size, moe_ep_size     | the same               |
"""

from __future__ import annotations

import json
from typing import Any

from compiler.model.config import ModelConfig
from compiler.model.rope import RopeScaling
from compiler.quantization.vendors import VENDOR_SCHEMES
from compiler.targets.trtllm.architectures import row_for, value_of
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.version import Version, version_of

POSITIONS = {
    ("rope", "half"): "rope_gpt_neox",
    ("rope", "interleaved"): "rope_gptj",
    ("learned", "half"): "learned_absolute",
    ("alibi", "half"): "alibi",
}
"""`position_embedding_type` by position and rotary of ModelConfig."""
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu", "relu": "relu"}
"""`hidden_act` by activation. TensorRT-LLM's gelu is the tanh approximation under all its names; all versions have
this one.
"""
_NONE, _RENORMALIZE = 0, 1  # normalization of the chosen experts' weights
_EXPERTS, _TENSORS = 1, 2  # split of the experts over ranks in 0.8 to 0.10: whole experts, or columns of all


def checkpoint_config(config: ModelConfig, tp: int, dtype: str, options: TrtllmOptions = PLAIN) -> dict[str, Any]:
    """Content of config.json. `dtype`: torch's name ("bfloat16").

    Raises:
        RefusedError: the version does not support the architecture.
    """
    version = version_of(options)
    row, architecture = row_for(config, version)
    moe = "moe" in {kind.mlp for kind in config.layer_kinds}
    fused = row.fused_mlp or moe
    common: dict[str, Any] = {
        "architecture": architecture,
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_size": config.head_dim,
        "intermediate_size": config.moe_ffn if moe else config.ffn,
        "hidden_act": "swiglu" if fused else ACTIVATIONS[config.activation],
        "norm_epsilon": config.norm_eps,
        "position_embedding_type": POSITIONS[config.position, config.rotary],
        "max_position_embeddings": config.max_positions,
        "use_parallel_embedding": options.parallel_embedding,
        "embedding_sharding_dim": 0,
        "mapping": _mapping(config, tp, options, version),
        "quantization": _quantization(options, version),
    }
    if config.position == "rope":
        common["rotary_embedding_dim"] = config.rotary_dim
        if row.rope_scaling:
            common["rotary_scaling"] = _rope_scaling(config.rope_scaling)
    if config.qk_norm:
        common["qk_layernorm"] = True
    if version < (0, 10, 0):
        common["share_embedding_table"] = False
    if moe:
        common |= _moe(config, options, version)
    extras = {key: value_of(value, config) for key, value in {**row.sizes, **row.extras}.items()}
    return common | extras


def config_bytes(content: dict[str, Any]) -> bytes:
    """Bytes of config.json; equal contents give equal bytes."""
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _mapping(config: ModelConfig, tp: int, options: TrtllmOptions, version: Version) -> dict[str, int]:
    mapping = {"world_size": tp * options.pp, "tp_size": tp, "pp_size": options.pp}
    if version >= (0, 11, 0) and config.experts:
        mapping |= {"moe_tp_size": tp // options.moe_ep, "moe_ep_size": options.moe_ep}
    return mapping


def _moe(config: ModelConfig, options: TrtllmOptions, version: Version) -> dict[str, Any]:
    norm = _RENORMALIZE if config.renormalize_experts else _NONE
    if version >= (0, 11, 0):
        return {"moe": {"num_experts": config.experts, "top_k": config.experts_per_token, "normalization_mode": norm}}
    return {
        "moe_num_experts": config.experts,
        "moe_top_k": config.experts_per_token,
        "moe_tp_mode": _EXPERTS if options.moe_ep > 1 else _TENSORS,
        "moe_normalization_mode": norm,
    }


def _quantization(options: TrtllmOptions, version: Version) -> dict[str, Any]:
    quantization: dict[str, Any] = {
        "quant_algo": options.quant_algo or None,
        "kv_cache_quant_algo": options.kv_cache_quant_algo or None,
    }
    found = VENDOR_SCHEMES.get(options.quant_algo)
    if found is None:
        return quantization
    if found.group is not None:
        quantization |= {"group_size": options.group_size, "has_zero_point": False, "pre_quant_scale": True}
    if version < (0, 9, 0) and found.smooths:
        quantization["sq_use_plugin"] = found.plugin
    return quantization


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"type": "linear", "factor": scaling.factor}
    return {
        "type": "llama3",
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }
