"""Published checkpoints without their weights: config.json, and the names and shapes of their tensors.

Written out from the architectures, not from the recipes: what a recipe reads is compared with it. `PARAMETERS` are
the counts that the hub's model pages show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]


def _config(architecture: str, **values: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "hidden_act": "silu", "tie_word_embeddings": False, **values}


def _sizes(hidden: int, ffn: int, heads: int, kv_heads: int, layers: int, vocab: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "llama2-70b": _config(
        "LlamaForCausalLM", **_sizes(8192, 28672, 64, 8, 80, 32000), rms_norm_eps=1e-5,
        max_position_embeddings=4096, torch_dtype="float16", rope_theta=10000.0,
    ),
    "llama3-8b": _config(
        "LlamaForCausalLM", **_sizes(4096, 14336, 32, 8, 32, 128256), rms_norm_eps=1e-5,
        max_position_embeddings=8192, torch_dtype="bfloat16", rope_theta=500000.0,
    ),
    "llama3.1-70b": _config(
        "LlamaForCausalLM", **_sizes(8192, 28672, 64, 8, 80, 128256), rms_norm_eps=1e-5,
        max_position_embeddings=131072, torch_dtype="bfloat16", rope_theta=500000.0,
        rope_scaling={"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                      "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    ),
    "tinyllama": _config(
        "LlamaForCausalLM", **_sizes(2048, 5632, 32, 4, 22, 32000), rms_norm_eps=1e-5,
        max_position_embeddings=2048, torch_dtype="bfloat16", rope_theta=10000.0,
    ),
    "mistral-7b": _config(
        "MistralForCausalLM", **_sizes(4096, 14336, 32, 8, 32, 32000), rms_norm_eps=1e-5,
        max_position_embeddings=32768, torch_dtype="bfloat16", rope_theta=10000.0, sliding_window=4096,
    ),
    "mixtral-8x7b": _config(
        "MixtralForCausalLM", **_sizes(4096, 14336, 32, 8, 32, 32000), rms_norm_eps=1e-5,
        max_position_embeddings=32768, torch_dtype="bfloat16", rope_theta=1000000.0, sliding_window=None,
        num_local_experts=8, num_experts_per_tok=2,
    ),
    "qwen2-7b": _config(
        "Qwen2ForCausalLM", **_sizes(3584, 18944, 28, 4, 28, 152064), rms_norm_eps=1e-6,
        max_position_embeddings=131072, torch_dtype="bfloat16", rope_theta=1000000.0, sliding_window=131072,
        use_sliding_window=False, max_window_layers=28,
    ),
    "qwen2-0.5b": _config(
        "Qwen2ForCausalLM", **_sizes(896, 4864, 14, 2, 24, 151936), rms_norm_eps=1e-6,
        max_position_embeddings=131072, torch_dtype="bfloat16", rope_theta=1000000.0, sliding_window=131072,
        use_sliding_window=False, max_window_layers=24,
    ) | {"tie_word_embeddings": True},
}  # fmt: skip

PARAMETERS = {
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "tinyllama": 1_100_048_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2-7b": 7_615_616_512,
    "qwen2-0.5b": 494_032_768,
}


def headers(name: str) -> dict[str, Tensor]:
    """Names, shapes and dtypes of the tensors in the safetensors files of a published checkpoint."""
    hf = CONFIGS[name]
    hidden, ffn, vocab = hf["hidden_size"], hf["intermediate_size"], hf["vocab_size"]
    kv = hidden // hf["num_attention_heads"] * hf["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not hf["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for i in range(hf["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
        for letter, rows in (("q", hidden), ("k", kv), ("v", kv)):
            shapes[f"{layer}self_attn.{letter}_proj.weight"] = (rows, hidden)
            if hf["architectures"] == ["Qwen2ForCausalLM"]:
                shapes[f"{layer}self_attn.{letter}_proj.bias"] = (rows,)
        shapes[layer + "self_attn.o_proj.weight"] = (hidden, hidden)
        if "num_local_experts" in hf:
            shapes[layer + "block_sparse_moe.gate.weight"] = (hf["num_local_experts"], hidden)
            for e in range(hf["num_local_experts"]):
                expert = f"{layer}block_sparse_moe.experts.{e}."
                shapes |= {expert + "w1.weight": (ffn, hidden), expert + "w2.weight": (hidden, ffn)}
                shapes[expert + "w3.weight"] = (ffn, hidden)
        else:
            mlp = layer + "mlp."
            shapes |= {mlp + "gate_proj.weight": (ffn, hidden), mlp + "up_proj.weight": (ffn, hidden)}
            shapes[mlp + "down_proj.weight"] = (hidden, ffn)
    dtype = {"float16": "F16", "bfloat16": "BF16"}[hf["torch_dtype"]]
    return {key: Tensor(dtype, shape) for key, shape in shapes.items()}
