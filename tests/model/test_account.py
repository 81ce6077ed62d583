"""Every tensor used or ignored, every role filled; anything else in one error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import recipes
from compiler.errors import AccountingError, UnknownArchitecture
from compiler.model.account import Account, account
from compiler.model.roles import TensorId
from tests import published
from tests.published import Tensor


def _account(model: str, headers: Mapping[str, Tensor], **config: Any) -> Account:
    hf = published.CONFIGS[model] | config
    _, recipe = recipes.for_config(hf)
    return account(recipe, recipe.model_config(hf), headers)


def _without(model: str, *names: str) -> dict[str, Tensor]:
    return {k: v for k, v in published.headers(model).items() if k not in names}


def test_all_that_is_wrong_is_listed_at_once() -> None:
    headers = _without("tinyllama", "model.layers.3.mlp.up_proj.weight", "model.norm.weight")
    headers["model.layers.0.self_attn.q_proj.weight"] = Tensor("BF16", (2048, 2047))
    headers["model.layers.0.self_attn.q_proj.lora_A"] = Tensor("BF16", (8, 2048))
    headers["model.layers.22.input_layernorm.weight"] = Tensor("BF16", (2048,))
    with pytest.raises(AccountingError) as caught:
        _account("tinyllama", headers)
    for text in (
        "in 5 place(s)",
        "nothing in the checkpoint fills layers.3.mlp.up.weight",
        "nothing in the checkpoint fills final.norm.weight",
        "expected shape [2048, 2048], found [2048, 2047]",
        "no rule matches `model.layers.0.self_attn.q_proj.lora_A`",
        "`model.layers.22.input_layernorm.weight` fills layers.22.attn.norm.weight, which this model lacks",
    ):
        assert text in caught.value.message


def test_a_missing_expert_is_named() -> None:
    name = "model.layers.5.block_sparse_moe.experts.7.w2.weight"
    with pytest.raises(AccountingError, match=r"expected experts 0 to 7, wrong or missing: \[7\]"):
        _account("mixtral-8x7b", _without("mixtral-8x7b", name))


def test_experts_of_different_dtypes_are_widened() -> None:
    headers = _without("mixtral-8x7b")
    headers["model.layers.5.block_sparse_moe.experts.7.w2.weight"] = Tensor("F32", (4096, 14336))
    tensors = _account("mixtral-8x7b", headers).tensors
    assert tensors[TensorId("moe.down", "weight", 5)].source_dtype == "F32"
    assert tensors[TensorId("moe.up", "weight", 5)].source_dtype == "BF16"


def test_buffers_are_ignored_only_where_the_recipe_says_so() -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    buffer = {name: Tensor("F32", (32,))}
    assert _account("tinyllama", published.headers("tinyllama") | buffer).ignored == (name,)
    with pytest.raises(AccountingError, match="no rule matches"):
        _account("mixtral-8x7b", published.headers("mixtral-8x7b") | buffer)


def test_a_tied_head_may_be_repeated_and_an_untied_one_must_be_there() -> None:
    head = {"lm_head.weight": Tensor("BF16", (151936, 896))}
    filled = _account("qwen2-0.5b", published.headers("qwen2-0.5b") | head)
    assert filled.redundant == ("lm_head.weight",)
    assert TensorId("head") not in filled.tensors
    with pytest.raises(AccountingError, match=r"fills head\.weight"):
        _account("tinyllama", _without("tinyllama", "lm_head.weight"))


def test_a_bias_that_the_traits_have_not_is_refused() -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": Tensor("BF16", (2048,))}
    with pytest.raises(AccountingError, match="which this model lacks"):
        _account("tinyllama", published.headers("tinyllama") | bias)


def test_long_lists_are_cut_with_a_count() -> None:
    with pytest.raises(AccountingError, match=r"\.\.\. and \d+ more"):
        _account("tinyllama", {})


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(UnknownArchitecture, match="Qwen2ForCausalLMx") as caught:
        recipes.for_config({"architectures": ["Qwen2ForCausalLMx"]})
    assert "Nearest: Qwen2ForCausalLM" in caught.value.hint
