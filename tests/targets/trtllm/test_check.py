"""Refusals: what a version cannot do, with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.errors import ParallelError, RefusedError, UsageError
from compiler.model.config import LayerKind
from compiler.model.rope import RopeScaling
from compiler.targets.trtllm.check import check
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions
from compiler.targets.trtllm.version import parse_version
from tests.targets.trtllm.models import CASES

SQ = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"


@pytest.mark.parametrize(
    ("name", "tp", "options", "words"),
    [
        ("mixtral", 2, {"quant_algo": SQ}, "no SmoothQuant for experts"),
        ("starcoder", 2, {"quant_algo": SQ}, "SmoothQuant is not supported"),
        ("llama", 2, {"quant_algo": "W8A16"}, "multiples of 64 x tp = 128; the mlp is 96 wide"),
        ("llama", 1, {"quant_algo": "W4A16", "version": "0.8.0"}, "W4A16 needs 0.9.0"),
        ("llama", 1, {"quant_algo": "INT3"}, "found INT3"),
        ("llama", 1, {"kv_cache_quant_algo": "INT4"}, "found INT4"),
        ("mixtral", 2, {"quant_algo": "FP8", "version": "0.9.0"}, "experts. scales in 0.8 and 0.9 is not verified"),
        ("mixtral", 2, {"quant_algo": "W4A16_AWQ"}, "the layout of experts under W4A16_AWQ is not verified"),
        ("gptj", 2, {"quant_algo": SQ}, "one norm for attention and mlp"),
        ("qwen3", 2, {"quant_algo": SQ, "version": "0.21.0"}, "norms on q and k is not verified"),
        ("llama", 2, {"quant_algo": "W4A16_GPTQ"}, "zeros in a portable order is not verified"),
        ("chatglm", 1, {"pp": 2}, "no pipeline stages"),
        ("llama", 1, {"pp": 3}, "layers do not divide by pp 3"),
        ("mixtral", 4, {"moe_ep": 3}, "moe_ep 3 does not divide tp 4"),
        ("baichuan-v1-13b", 1, {"pp": 2}, "no pipeline stages"),
        ("llama", 2, {"moe_ep": 2}, "it has none"),
        ("mixtral", 4, {"moe_ep": 2, "version": "0.10.0"}, "moe_ep 1 or tp = 4"),
        ("qwen3", 1, {"version": "0.12.0"}, "from 0.20.0 on"),
        ("gpt2", 1, {"version": "0.8.0"}, "from 0.9.0 on"),
        ("phi3", 1, {"version": "0.11.0"}, "from 0.12.0 on"),
        ("internlm2", 1, {"version": "0.9.0"}, "from 0.11.0 on"),
        ("qwen2-moe", 1, {"version": "0.9.0"}, "from 0.10.0 on"),
        ("llama-rope-llama3", 1, {"version": "0.11.0"}, "needs 0.12"),
        ("llama", 1, {"version": "0.7.1"}, "has a checkpoint format from 0.8.0 on"),
        ("llama", 1, {"version": "1.2.0"}, "0.8 to 1.1"),
    ],
)
def test_options_that_a_version_does_not_support_are_refused(
    name: str, tp: int, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        check(CASES[name].config, tp, TrtllmOptions(**options))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"architecture": "BloomForCausalLM"}, "no row"),
        ("llama", {"architecture": "Qwen3MoeForCausalLM"}, "not verified"),
        ("llama", {"qkv_bias": True}, "found them on q k v"),
        ("llama", {"norm": "layer"}, "rms norms; found layer"),
        ("llama", {"rotary_dim": 4}, "covers all 8"),
        ("llama", {"rope_scaling": RopeScaling("linear", 1.0)}, "above 1"),
        ("llama", {"rope_scaling": RopeScaling("yarn", 4.0)}, "linear and llama3; found yarn"),
        ("llama", {"rope_scaling": RopeScaling("dynamic", 4.0, original_max_positions=8, length=9)}, "found dynamic"),
        ("phi3", {"rope_scaling": RopeScaling("linear", 2.0)}, "reads no rope scaling"),
        ("phi3", {"activation": "gelu_tanh"}, "computes silu"),
        ("gptj", {"ffn": 96}, "256 wide; found 96"),
        ("gptj", {"parallel_residual": False}, "found in sequence"),
        ("qwen2-moe", {"layer_kinds": (LayerKind("moe"), LayerKind("gated"))}, "mixes"),
    ],
)
def test_mathematics_that_a_model_class_has_not_is_refused(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        check(replace(CASES[name].config, **changes))
    assert caught.value.hint


def test_a_tp_that_does_not_divide_names_those_that_do() -> None:
    with pytest.raises(ParallelError) as error:
        check(CASES["llama"].config, 3)
    assert "1, 2, 4, 8" in error.value.hint


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_is_taken_by_the_two_first_class_versions_or_is_too_new(name: str) -> None:
    for version in ("0.12.0", "0.21.0"):
        if (name, version) != ("qwen3", "0.12.0"):
            check(CASES[name].config, 2, TrtllmOptions(version=version))


def test_versions() -> None:
    assert parse_version("") == (0, 12, 0)
    assert parse_version("0.21.0rc1") == (0, 21, 0)
    assert parse_version("0.17.0.dev2024121700") == (0, 17, 0)
    assert parse_version("1.0") == (1, 0, 0)
    with pytest.raises(UsageError, match="`latest`"):
        parse_version("latest")


def test_no_options_are_the_plain_ones() -> None:
    assert TrtllmOptions() == PLAIN
