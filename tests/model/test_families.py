"""Published configurations of architectures whose layers differ, or that scale, cap and clip."""

from __future__ import annotations

from typing import Any

import pytest

import recipes
from compiler.errors import AccountingError, RefusedError, SourceError
from compiler.model.account import account
from compiler.model.config import LayerKind, ModelConfig
from tests import published


def _read(name: str, **changes: Any) -> ModelConfig:
    hf = {key: value for key, value in (published.CONFIGS[name] | changes).items() if value != "absent"}
    return recipes.for_config(hf)[1].resolve(hf).model_config(hf)


def test_gemma_2_has_a_window_in_every_second_layer_and_two_softcaps() -> None:
    config = _read("gemma2-2b-it")
    assert config.layer_kinds == (LayerKind("gated", 4096), LayerKind("gated")) * 13
    assert (config.attention_softcap, config.logit_softcap, config.attention_scale) == (50, 30, 1 / 16)
    assert config.embedding_scale == 2304**0.5
    without = _read("gemma2-2b-it", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (without.attention_softcap, without.logit_softcap) == (0, 0)
    absent = _read("gemma2-2b-it", attn_logit_softcapping="absent", final_logit_softcapping="absent")
    assert absent == config


def test_gemma_3_has_two_thetas_and_a_full_layer_after_five_with_a_window() -> None:
    config = _read("gemma3-1b-it")
    local, full = LayerKind("gated", 512, rope="local"), LayerKind("gated")
    assert config.layer_kinds == ((local,) * 5 + (full,)) * 4 + (local,) * 2
    assert (config.rope_theta, config.local_rope_theta, config.rope_scaling) == (1e6, 1e4, None)


def test_parameters_by_type_of_layer_are_those_that_older_files_have_beside_each_other() -> None:
    """As transformers 5 saves Gemma 3."""
    scaling = {"rope_type": "linear", "factor": 8.0}
    old = _read("gemma3-1b-it", rope_theta=5e5, rope_local_base_freq=2e4, rope_scaling=scaling)
    by_type = {
        "full_attention": {**scaling, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    named = dict.fromkeys(("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern"), "absent")
    types = [("full_attention" if i % 6 == 5 else "sliding_attention") for i in range(26)]
    assert _read("gemma3-1b-it", **named, rope_parameters=by_type, layer_types=types) == old
    assert old.rope_scaling is not None


def test_scaled_positions_of_layers_with_a_window_are_refused() -> None:
    by_type = {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(RefusedError, match="sliding attention are not scaled"):
        _read("gemma3-1b-it", rope_parameters=by_type)


def test_granite_multiplies_four_times() -> None:
    config = _read("granite-3.3-8b")
    found = (config.embedding_scale, config.residual_scale, config.attention_scale, config.logit_scale)
    assert found == (12, 0.22, 1 / 128, 1 / 16)


def test_every_fourth_layer_of_smollm3_has_no_positions() -> None:
    config = _read("smollm3-3b")
    assert config.layer_kinds == ((LayerKind("gated"),) * 3 + (LayerKind("gated", rope="none"),)) * 9
    assert _read("smollm3-3b", no_rope_layers=None).layer_kinds == config.layer_kinds
    assert {kind.rope for kind in _read("smollm3-3b", no_rope_layers=[0] * 36).layer_kinds} == {"none"}
    with pytest.raises(RefusedError, match="use_sliding_window"):
        _read("smollm3-3b", use_sliding_window=True, sliding_window=512)


def test_full_layers_of_command_r7b_have_no_positions() -> None:
    local, full = LayerKind("gated", 4096), LayerKind("gated", rope="none")
    assert _read("command-r7b").layer_kinds == ((local,) * 3 + (full,)) * 8


@pytest.mark.parametrize(
    "types",
    [["sliding_attention"], "sliding_attention", 3, ["sliding_attention", "full"] * 13, ["full_attention"] * 27],
)
def test_a_list_of_layer_types_that_is_none_is_named(types: object) -> None:
    with pytest.raises(SourceError, match="layer_types"):
        _read("gemma3-1b-it", layer_types=types)


def test_the_falcons() -> None:
    seven, forty, refined = (_read(name) for name in ("falcon-7b", "falcon-40b-instruct", "falcon-rw-1b"))
    assert (seven.kv_heads, forty.kv_heads, refined.kv_heads) == (1, 8, 32)
    assert [one.parallel_residual for one in (seven, forty, refined)] == [True, True, False]
    assert [one.parallel_mlp_norm for one in (seven, forty, refined)] == [False, True, False]
    assert (seven.position, refined.position, refined.alibi) == ("rope", "alibi", "rounded_keys")
    assert not _read("falcon-40b-instruct", num_ln_in_parallel_attn=1).parallel_mlp_norm
    with pytest.raises(RefusedError, match="alibi"):
        _read("falcon-40b-instruct", alibi=True)


def test_positions_of_opt_begin_in_row_2_and_norms_after_blocks_are_refused() -> None:
    config = _read("opt-1.3b")
    assert (config.position, config.position_offset, config.norm_eps) == ("learned", 2, 1e-5)
    with pytest.raises(RefusedError, match="do_layer_norm_before"):
        _read("opt-1.3b", do_layer_norm_before=False, word_embed_proj_dim=512)


def test_bloom_in_the_names_of_either_generation() -> None:
    new = {"n_embed": "absent", "hidden_size": 1024, "num_attention_heads": "absent", "n_head": 16}
    assert _read("bloom-560m") == _read("bloom-560m", **new)
    assert _read("bloom-560m").embedding_norm


def test_mpt_without_alibi_is_refused_and_clipping_is_read() -> None:
    attention = published.CONFIGS["mpt-7b-instruct"]["attn_config"]
    assert _read("mpt-7b-instruct", attn_config={**attention, "clip_qkv": 6}).clip_qkv == 6
    with pytest.raises(RefusedError, match=r"attn_config\.alibi"):
        _read("mpt-7b-instruct", attn_config={**attention, "alibi": False})


def test_a_norm_for_each_head_needs_all_heads() -> None:
    name = "stablelm2-zephyr-1.6b"
    hf = {**published.CONFIGS[name], "qk_layernorm": True}
    recipe = recipes.for_config(hf)[1].resolve(hf)
    config = recipe.model_config(hf)
    norms = {
        f"model.layers.{layer}.self_attn.{letter}_layernorm.norms.{head}.weight": published.Tensor("F16", (64,))
        for layer in range(24)
        for letter in "qk"
        for head in range(32)
    }
    filled = account(recipe, config, published.headers(name) | norms)
    assert sum(len(use.sources) == 32 for use in filled.uses) == 48
    del norms["model.layers.3.self_attn.k_layernorm.norms.7.weight"]
    with pytest.raises(AccountingError, match=r"expected heads 0 to 31, wrong or missing: \[7\]"):
        account(recipe, config, published.headers(name) | norms)
