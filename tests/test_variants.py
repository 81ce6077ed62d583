"""One architecture string, several models: which one a published config.json is taken for."""

from __future__ import annotations

from typing import Any

import pytest

import recipes
from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.model.rope import RopeScaling
from tests.published import CONFIGS


def _config(hf: dict[str, Any], variant: str | None = None) -> ModelConfig:
    return recipes.for_config(hf)[1].resolve(hf, variant).model_config(hf)


_BAICHUAN = {k: v for k, v in CONFIGS["baichuan2-13b"].items() if k not in ("z_loss_weight", "model_max_length")}
_SMALL = {**_BAICHUAN, "num_attention_heads": 32, "hidden_size": 4096, "max_position_embeddings": 4096}
_LARGE = {**_BAICHUAN, "model_max_length": 4096}


@pytest.mark.parametrize(
    ("hf", "position", "head"),
    [
        ({**_SMALL, "vocab_size": 64000, "architectures": ["BaiChuanForCausalLM"]}, "rope", "plain"),
        ({**_LARGE, "vocab_size": 64000}, "alibi", "plain"),
        (_SMALL, "rope", "l2_rows"),
        ({**_LARGE, "z_loss_weight": 0}, "alibi", "l2_rows"),
        # Fine-tuned with another vocabulary.
        ({**_SMALL, "vocab_size": 125700, "z_loss_weight": 0}, "rope", "l2_rows"),
        ({**_LARGE, "vocab_size": 125700, "z_loss_weight": 0}, "alibi", "l2_rows"),
    ],
    ids=["v1-7b", "v1-13b", "v2-7b", "v2-13b", "v2-7b other vocabulary", "v2-13b other vocabulary"],
)
def test_baichuan_by_its_heads_and_its_vocabulary(hf: dict[str, Any], position: str, head: str) -> None:
    config = _config(hf)
    assert (config.position, config.head) == (position, head)
    assert config.max_positions == 4096


def test_baichuan_that_is_neither_generation_has_to_be_named() -> None:
    unclear = {**_SMALL, "vocab_size": 125700, "z_loss_weight": 1e-4}
    with pytest.raises(RefusedError, match="z_loss_weight") as caught:
        _config(unclear)
    assert "v2-7b" in caught.value.hint
    assert _config(unclear, "v2-7b").head == "l2_rows"


_CHATGLM = CONFIGS["chatglm3-6b"]


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({}, 1e4, None),
        ({"_name_or_path": "elsewhere", "rope_ratio": 1}, 1e4, None),
        ({"_name_or_path": "THUDM/chatglm3-6b-32k", "rope_ratio": 50}, 5e5, None),
        ({"_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 8}, 1e4, RopeScaling("linear", 8.0)),
        ({"_name_or_path": "elsewhere", "padded_vocab_size": 151552, "rope_ratio": 500}, 5e6, None),
        ({"_name_or_path": "elsewhere", "padded_vocab_size": 151552}, 1e4, None),
    ],
)
def test_chatglm_by_its_name_or_its_vocabulary(
    changes: dict[str, Any], theta: float, scaling: RopeScaling | None
) -> None:
    config = _config(_CHATGLM | changes)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)
    assert (config.rotary, config.rotary_dim, config.qkv_bias) == ("interleaved", 64, True)


def test_chatglm_with_a_ratio_and_without_a_known_name_has_to_be_named() -> None:
    unclear = {**_CHATGLM, "_name_or_path": "/models/mine", "rope_ratio": 8}
    with pytest.raises(RefusedError, match="expected rope_ratio 1, found 8") as caught:
        _config(unclear)
    assert "chatglm2, chatglm3, glm4" in caught.value.hint
    assert _config(unclear, "chatglm2").rope_scaling == RopeScaling("linear", 8.0)
    assert _config(unclear, "chatglm3").rope_theta == 8e4


def test_chatglm_with_another_block_is_refused() -> None:
    with pytest.raises(RefusedError, match="apply_residual_connection_post_layernorm False, found True"):
        _config(_CHATGLM | {"apply_residual_connection_post_layernorm": True})


def test_gpt2_that_scales_scores_by_layer_is_refused() -> None:
    with pytest.raises(RefusedError, match="scale_attn_by_inverse_layer_idx"):
        _config(CONFIGS["gpt2"] | {"scale_attn_by_inverse_layer_idx": True})
