"""Published checkpoints without their weights: config.json, and the names and shapes of their tensors.

Written out from the architectures, not from the recipes: what a recipe reads is compared with it. `PARAMETERS` are
the counts that the hub's model pages show, buffers left out; in the plan of a model every parameter stands once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tests.published_shapes import BUFFERS, SHAPES


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
    "qwen1.5-moe-a2.7b": _config(
        "Qwen2MoeForCausalLM", **_sizes(2048, 5632, 16, 16, 24, 151936), rms_norm_eps=1e-6,
        max_position_embeddings=8192, torch_dtype="bfloat16", rope_theta=1000000.0, sliding_window=32768,
        use_sliding_window=False, max_window_layers=21, num_experts=60, num_experts_per_tok=4,
        moe_intermediate_size=1408, shared_expert_intermediate_size=5632, norm_topk_prob=False, decoder_sparse_step=1,
    ),
    "qwen3-8b": _config(
        "Qwen3ForCausalLM", **_sizes(4096, 12288, 32, 8, 36, 151936), rms_norm_eps=1e-6, head_dim=128,
        max_position_embeddings=40960, torch_dtype="bfloat16", rope_theta=1000000, rope_scaling=None,
        sliding_window=None, use_sliding_window=False, max_window_layers=36, attention_bias=False,
    ),
    # Qwen/Qwen3-30B-A3B and Qwen/Qwen3-235B-A22B as published in April 2025.
    "qwen3-30b-a3b": _config(
        "Qwen3MoeForCausalLM", **_sizes(2048, 6144, 32, 4, 48, 151936), rms_norm_eps=1e-6, head_dim=128,
        max_position_embeddings=40960, torch_dtype="bfloat16", rope_theta=1000000.0, rope_scaling=None,
        sliding_window=None, use_sliding_window=False, max_window_layers=48, attention_bias=False,
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "qwen3-235b-a22b": _config(
        "Qwen3MoeForCausalLM", **_sizes(4096, 12288, 64, 4, 94, 151936), rms_norm_eps=1e-6, head_dim=128,
        max_position_embeddings=40960, torch_dtype="bfloat16", rope_theta=1000000.0, rope_scaling=None,
        sliding_window=None, use_sliding_window=False, max_window_layers=94, attention_bias=False,
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=1536, norm_topk_prob=True,
        decoder_sparse_step=1, mlp_only_layers=[],
    ),
    # allenai/OLMo-2-1124-7B as published in November 2024.
    "olmo2-7b": _config(
        "Olmo2ForCausalLM", **_sizes(4096, 11008, 32, 32, 32, 100352), rms_norm_eps=1e-6, attention_bias=False,
        max_position_embeddings=4096, torch_dtype="float32", rope_theta=500000, rope_scaling=None,
    ),
    # CohereForAI/c4ai-command-r-v01 as published in March 2024; that it is tied is the default of its class.
    "command-r": {
        "architectures": ["CohereForCausalLM"], "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
        **_sizes(8192, 22528, 64, 64, 40, 256000), "max_position_embeddings": 8192, "model_max_length": 131072,
        "rope_theta": 8000000.0, "attention_bias": False, "torch_dtype": "float16",
    },
    "gemma-7b": _config(
        "GemmaForCausalLM", **_sizes(3072, 24576, 16, 16, 28, 256000), rms_norm_eps=1e-6, head_dim=256,
        max_position_embeddings=8192, torch_dtype="bfloat16", rope_theta=10000.0, attention_bias=False,
    ) | {"hidden_act": "gelu", "tie_word_embeddings": True},
    "phi3-mini": _config(
        "Phi3ForCausalLM", **_sizes(3072, 8192, 32, 32, 32, 32064), rms_norm_eps=1e-5,
        max_position_embeddings=4096, original_max_position_embeddings=4096, torch_dtype="bfloat16",
        rope_theta=10000.0, rope_scaling=None, sliding_window=2047,
    ),
    "glm-4-9b-hf": _config(
        "GlmForCausalLM", **_sizes(4096, 13696, 32, 2, 40, 151552), rms_norm_eps=1.5625e-7, head_dim=128,
        max_position_embeddings=8192, torch_dtype="bfloat16", rope_theta=10000.0, attention_bias=True,
        partial_rotary_factor=0.5,
    ),
    "starcoder2-7b": {
        "architectures": ["Starcoder2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5,
        **_sizes(4608, 18432, 36, 4, 32, 49152), "max_position_embeddings": 16384, "rope_theta": 1000000,
        "sliding_window": 4096, "use_bias": True, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "mlp_type": "default", "norm_type": "layer_norm",
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    },
    "gptj-6b": {
        "architectures": ["GPTJForCausalLM"], "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28, "n_positions": 2048, "rotary": True,
        "rotary_dim": 64, "scale_attn_weights": True, "tie_word_embeddings": False, "vocab_size": 50400,
    },
    # EleutherAI/gpt-neox-20b (2022) and EleutherAI/pythia-6.9b (2023) as published.
    "gpt-neox-20b": {
        "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu_fast", "hidden_size": 6144,
        "intermediate_size": 24576, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048,
        "num_attention_heads": 64, "num_hidden_layers": 44, "rotary_emb_base": 10000, "rotary_pct": 0.25,
        "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": 50432,
    },
    "pythia-6.9b": {
        "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 4096,
        "intermediate_size": 16384, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048,
        "num_attention_heads": 32, "num_hidden_layers": 32, "rotary_emb_base": 10000, "rotary_pct": 0.25,
        "tie_word_embeddings": False, "torch_dtype": "float16", "use_parallel_residual": True, "vocab_size": 50432,
    },
    "starcoder": {
        "architectures": ["GPTBigCodeForCausalLM"], "activation_function": "gelu", "layer_norm_epsilon": 1e-5,
        "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40, "n_positions": 8192, "multi_query": True,
        "scale_attn_weights": True, "vocab_size": 49152, "torch_dtype": "float32",
    },
    "santacoder": {
        "architectures": ["GPT2LMHeadCustomModel"], "activation_function": "gelu_fast", "layer_norm_epsilon": 1e-5,
        "attention_head_type": "multiquery", "n_embd": 2048, "n_head": 16, "n_inner": 8192, "n_layer": 24,
        "n_positions": 2048, "scale_attn_weights": True, "vocab_size": 49280, "torch_dtype": "float32",
    },
    "qwen-7b": {
        "architectures": ["QWenLMHeadModel"], "hidden_size": 4096, "intermediate_size": 22016, "kv_channels": 128,
        "layer_norm_epsilon": 1e-6, "max_position_embeddings": 32768, "no_bias": True, "num_attention_heads": 32,
        "num_hidden_layers": 32, "rotary_emb_base": 10000, "rotary_pct": 1.0, "scale_attn_weights": True,
        "seq_length": 8192, "tie_word_embeddings": False, "use_dynamic_ntk": True, "use_logn_attn": True,
        "vocab_size": 151936, "torch_dtype": "bfloat16",
    },
    "baichuan2-13b": {
        "architectures": ["BaichuanForCausalLM"], "hidden_act": "silu", "hidden_size": 5120,
        "intermediate_size": 13696, "model_max_length": 4096, "num_attention_heads": 40, "num_hidden_layers": 40,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "vocab_size": 125696, "z_loss_weight": 0,
        "torch_dtype": "bfloat16",
    },
    "chatglm3-6b": {
        "architectures": ["ChatGLMModel"], "_name_or_path": "THUDM/chatglm3-6b", "add_bias_linear": False,
        "add_qkv_bias": True, "apply_residual_connection_post_layernorm": False, "ffn_hidden_size": 13696,
        "hidden_size": 4096, "kv_channels": 128, "layernorm_epsilon": 1e-5, "multi_query_attention": True,
        "multi_query_group_num": 2, "num_attention_heads": 32, "num_layers": 28, "original_rope": True,
        "padded_vocab_size": 65024, "post_layer_norm": True, "rmsnorm": True, "seq_length": 8192,
        "tie_word_embeddings": False, "torch_dtype": "float16",
    },
    "internlm-7b": {
        "architectures": ["InternLMForCausalLM"], "bias": True, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 2048, "num_attention_heads": 32,
        "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "rotary": {"base": 10000, "type": "dynamic"},
        "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": 103168,
    },
    "internlm2-7b": {
        "architectures": ["InternLM2ForCausalLM"], "bias": False, "hidden_act": "silu",
        **_sizes(4096, 14336, 32, 8, 32, 92544), "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 1.0, "type": "dynamic"}, "rope_theta": 1000000, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
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
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "olmo2-7b": 7_298_617_344,
    "command-r": 34_980_831_232,
    "gemma-7b": 8_537_680_896,
    "phi3-mini": 3_821_079_552,
    "glm-4-9b-hf": 9_399_951_360,
    "starcoder2-7b": 7_173_923_840,
    "gpt2": 124_439_808,
    "gptj-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-6.9b": 6_857_302_016,
    "starcoder": 15_517_456_384,
    "santacoder": 1_124_886_528,
    "qwen-7b": 7_721_324_544,
    "baichuan2-13b": 13_896_668_160,
    "chatglm3-6b": 6_243_584_000,
    "internlm-7b": 7_321_948_160,
    "internlm2-7b": 7_737_708_544,
}


def headers(name: str) -> dict[str, Tensor]:
    """Names, shapes and dtypes of the tensors in the safetensors files of a published checkpoint."""
    hf = CONFIGS[name]
    dtype = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[hf.get("torch_dtype", "float32")]
    return {key: Tensor(dtype, shape) for key, shape in SHAPES[hf["architectures"][0]](hf).items()}


def parameters(name: str) -> int:
    """How many numbers of these are parameters."""
    return sum(prod(tensor.shape) for key, tensor in headers(name).items() if not key.endswith(BUFFERS))
