"""config.json: the words of each version, and the smallest sets where a key too many is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compiler.targets.trtllm.config import checkpoint_config, config_bytes
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from tests.targets.trtllm.models import CASES


def _content(name: str, tp: int = 2, **options: Any) -> dict[str, Any]:
    return checkpoint_config(CASES[name].config, tp, "bfloat16", TrtllmOptions(**options))


def test_llama_for_the_default_version() -> None:
    assert _content("llama") == {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "logits_dtype": "float32",
        "vocab_size": 37,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_size": 8,
        "intermediate_size": 96,
        "hidden_act": "silu",
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": 32,
        "rotary_embedding_dim": 8,
        "rotary_base": 10000.0,
        "rotary_scaling": None,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "attn_bias": False,
        "mlp_bias": False,
        "residual_mlp": False,
        "disable_weight_only_quant_plugin": False,
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }


def test_experts_are_flat_before_0_11_and_nested_from_then_on() -> None:
    new = _content("mixtral", tp=4, version="0.11.0", moe_ep=2)
    assert new["moe"] == {"num_experts": 4, "top_k": 2, "normalization_mode": 1}
    assert new["mapping"] == {"world_size": 4, "tp_size": 4, "pp_size": 1, "moe_tp_size": 2, "moe_ep_size": 2}
    assert new["hidden_act"] == "swiglu"
    old = _content("mixtral", tp=4, version="0.10.0")
    assert "moe" not in old
    assert old["mapping"] == {"world_size": 4, "tp_size": 4, "pp_size": 1}
    assert {key: value for key, value in old.items() if key.startswith("moe_")} == {
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "moe_tp_mode": 2,
        "moe_normalization_mode": 1,
    }
    assert _content("mixtral", tp=4, version="0.9.0", moe_ep=4)["moe_tp_mode"] == 1


def test_qwen2_moe_keeps_both_widths_and_does_not_renormalise() -> None:
    content = _content("qwen2-moe", version="0.21.0")
    assert (content["intermediate_size"], content["moe_intermediate_size"]) == (96, 48)
    assert content["moe_shared_expert_intermediate_size"] == 64
    assert content["moe"]["normalization_mode"] == 0
    assert content["qwen_type"] == "qwen2_moe"


@pytest.mark.parametrize(
    ("name", "version", "architecture"),
    [
        ("qwen2", "0.9.0", "QWenForCausalLM"),
        ("qwen2", "0.12.0", "Qwen2ForCausalLM"),
        ("gpt2", "0.11.0", "GPTForCausalLM"),
        ("gpt2", "0.12.0", "GPT2LMHeadModel"),
        ("santacoder", "0.12.0", "GPT2LMHeadCustomModel"),
        ("chatglm", "0.8.0", "ChatGLMForCausalLM"),
        ("baichuan-v1-7b", "1.0.0", "BaichuanForCausalLM"),
    ],
)
def test_the_architecture_string_is_that_of_the_version(name: str, version: str, architecture: str) -> None:
    assert _content(name, version=version)["architecture"] == architecture


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gpt2", "position_embedding_type", "learned_absolute"),
        ("gpt2", "gpt_variant", "gpt2"),
        ("gpt2", "hidden_act", "gelu"),
        ("starcoder", "num_key_value_heads", 1),
        ("gptj", "position_embedding_type", "rope_gptj"),
        ("gptj", "rotary_dim", 4),
        ("qwen1", "intermediate_size", 192),
        ("qwen2", "seq_length", 32),
        ("chatglm", "hidden_act", "swiglu"),
        ("chatglm", "add_qkv_bias", True),
        ("phi3", "hidden_act", "swiglu"),
        ("gemma", "head_size", 8),
        ("baichuan-v1-7b", "model_version", "v1_7b"),
        ("baichuan-v1-13b", "model_version", "v1_13b"),
        ("baichuan-v2-7b", "model_version", "v2_7b"),
        ("baichuan-v2-13b", "model_version", "v2_13b"),
        ("baichuan-v2-13b", "position_embedding_type", "alibi"),
        ("llama-rope-linear", "rotary_scaling", {"type": "linear", "factor": 2.0}),
    ],
)
def test_some_architectures_have_keys_of_their_own(name: str, key: str, value: Any) -> None:
    assert _content(name)[key] == value


def test_the_share_of_tables_is_spoken_of_by_old_versions_only() -> None:
    assert _content("llama", version="0.9.0")["share_embedding_table"] is False
    assert "share_embedding_table" not in _content("llama", version="0.10.0")


def test_smooth_quant_names_its_plugin_to_0_8() -> None:
    algo = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
    assert _content("llama", version="0.8.0", quant_algo=algo)["quantization"]["sq_use_plugin"] is True
    assert "sq_use_plugin" not in _content("llama", version="0.9.0", quant_algo=algo)["quantization"]


def test_the_bytes_do_not_depend_on_the_order_of_keys() -> None:
    content = _content("llama")
    assert config_bytes(content) == config_bytes(dict(reversed(content.items())))
    assert json.loads(config_bytes(content)) == content
    assert PLAIN.version == ""
