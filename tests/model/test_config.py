from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from typing import Any

import pytest

import recipes
from compiler.errors import ArtifactError, RefusedError, SourceError
from compiler.model.config import ConfigMap, LayerKind, ModelConfig, Position, Traits
from compiler.model.limits import built_for
from compiler.model.read import read_config
from compiler.model.rope import RopeScaling
from compiler.model.rope_option import parse_rope_scaling
from tests import published


def _read(
    model: str = "tinyllama", traits: Traits | None = None, places: ConfigMap | None = None, **changes: Any
) -> ModelConfig:
    hf = {k: v for k, v in (published.CONFIGS[model] | changes).items() if v != "absent"}
    return read_config(hf, places or ConfigMap(), traits or Traits())


def test_numbers_that_are_absent_or_wrong_are_listed_together() -> None:
    with pytest.raises(SourceError) as caught:
        _read(hidden_size="absent", vocab_size="many", num_hidden_layers=True)
    for name in ("hidden", "vocab", "layers"):
        assert f"  {name}" in caught.value.message


def test_head_dim_is_hidden_by_heads_unless_stated() -> None:
    assert _read().head_dim == 64
    assert _read(head_dim=128).head_dim == 128
    with pytest.raises(SourceError, match="head_dim"):
        _read(num_attention_heads=7)


def test_kv_heads_default_to_heads() -> None:
    assert _read(num_key_value_heads="absent").kv_heads == 32


def test_rope_theta_in_either_spelling() -> None:
    nested = {"rope_type": "default", "rope_theta": 5e5}
    assert _read(rope_theta="absent", rope_parameters=nested).rope_theta == 5e5
    assert _read().rope_theta == 1e4


def test_rope_scaling_of_the_checkpoint() -> None:
    llama3 = _read("llama3.1-70b").rope_scaling
    assert llama3 == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    assert _read(rope_scaling={"type": "linear", "factor": 4.0}).rope_scaling == RopeScaling("linear", 4.0)
    with pytest.raises(RefusedError, match="proportional"):
        _read(rope_scaling={"rope_type": "proportional", "factor": 4.0})
    for kind in ({"rope_type": "linear"}, {"rope_type": "llama3", "factor": 8.0}, {"type": "longrope"}):
        with pytest.raises(SourceError, match="incomplete: it lacks"):
            _read(rope_scaling=kind)


def test_yarn_and_longrope_with_what_the_model_says_about_them() -> None:
    yarn = _read(rope_scaling={"type": "yarn", "factor": 4.0}).rope_scaling
    assert yarn is not None
    assert (yarn.original_max_positions, yarn.beta_fast, yarn.truncate) == (2048, 32.0, True)
    assert yarn.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    lists = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    found = _read(rope_scaling={"type": "su", **lists}, original_max_position_embeddings=512).rope_scaling
    assert found is not None
    assert (found.kind, found.factor, found.original_max_positions) == ("longrope", 4.0, 512)
    assert found.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(512)))
    with pytest.raises(SourceError, match="expected 32 factors, found 31"):
        _read(rope_scaling={"type": "longrope", **lists, "long_factor": [2.0] * 31})


def test_a_longrope_factor_that_is_not_the_ratio_of_the_lengths_is_refused_with_both_attention_factors() -> None:
    lists = {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    for place in ({"rope_scaling": {**lists, "factor": 8.0}, "original_max_position_embeddings": 512},
                  {"rope_scaling": {**lists, "factor": 8.0, "original_max_position_embeddings": 512}}):  # fmt: skip
        with pytest.raises(
            RefusedError, match=r"`factor` 8 is not .* = 2048 / 512 = 4: .*\(1.1547\).*\(1.10554\)"
        ) as no:
            _read(**place)
        assert "`attention_factor`: 1.1547" in no.value.hint
    for values in ({"factor": 4.0}, {"factor": 8.0, "attention_factor": 1.1}):
        found = _read(rope_scaling={**lists, **values}, original_max_position_embeddings=512).rope_scaling
        assert found is not None
        assert found.attention_factor == pytest.approx(values.get("attention_factor", 1.10554), abs=1e-5)
    assert _read(rope_scaling={**lists, "factor": 8.0}).rope_scaling is not None  # no original: no ratio


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ("linear", "`rope_scaling`: expected an object or null, found 'linear'"),
        ([2.0], "`rope_scaling`: expected an object"),
        ({"rope_type": None, "type": "linear", "factor": 2.0}, "found rope_type None, type 'linear'"),
        ({"rope_type": "yarn", "type": "linear", "factor": 2.0}, "found rope_type 'yarn', type 'linear'"),
        ({"type": "linear", "factor": "2"}, "`factor`: expected a number above 0, found '2'"),
        ({"type": "linear", "factor": -1}, "`factor`: expected a number above 0, found -1"),
        ({"type": "yarn", "factor": 2, "truncate": 1}, "`truncate`: expected true or false, found 1"),
        ({"full_attention": {"rope_type": "default"}}, "expected numbers for all layers"),
    ],
)
def test_a_rope_scaling_of_the_wrong_kind_is_one_error_with_its_key(scaling: object, told: str) -> None:
    with pytest.raises(SourceError, match=re.escape(told)):
        _read(rope_scaling=scaling)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear:2", RopeScaling("linear", 2.0)),
        ("llama3:8", RopeScaling("llama3", 8.0)),
        ("llama3:8:1:4:4096", RopeScaling("llama3", 8.0, 1.0, 4.0, 4096)),
        ("dynamic:2", RopeScaling("dynamic", 2.0)),
        ("yarn:4:4096", RopeScaling("yarn", 4.0, original_max_positions=4096, attention_factor=0.0)),
        ('{"type": "linear", "factor": 3}', RopeScaling("linear", 3.0)),
    ],
)
def test_rope_scaling_of_the_command_line(text: str, expected: RopeScaling) -> None:
    assert parse_rope_scaling(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linear",
        "linear:",
        "linear:0.5",
        "linear:2:3",
        "longrope:4",
        "llama3:x",
        "llama3:8:1:4:1:1",
        "yarn:4:x",
        "{}",
        "{",
        '{"rope_type": "default"}',
        '{"type": "yarn"}',
        '{"type": "linear", "factor": []}',
    ],
)
def test_rope_scaling_that_cannot_be_read(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_rope_scaling(text)
    assert "linear:FACTOR" in caught.value.message + caught.value.hint


def test_windows_by_config() -> None:
    def windows(**changes: Any) -> list[int | None]:
        places = ConfigMap(
            sliding_window="sliding_window", window_switch="use_sliding_window",
            first_windowed="max_window_layers", layer_types="layer_types",
        )  # fmt: skip
        changes = {"use_sliding_window": True, "max_window_layers": 0, **changes}
        return [kind.window for kind in _read(places=places, num_hidden_layers=4, **changes).layer_kinds]

    assert windows() == [None] * 4
    assert windows(sliding_window=8) == [8] * 4
    assert windows(sliding_window=8, use_sliding_window=False) == [None] * 4
    assert windows(sliding_window=8, use_sliding_window=True, max_window_layers=3) == [None, None, None, 8]
    types = ["sliding_attention", "full_attention"] * 2
    assert windows(sliding_window=8, layer_types=types) == [8, None, 8, None]
    assert windows(sliding_window=0, use_sliding_window=False) == [None] * 4
    assert [kind.window for kind in _read(sliding_window=8, layer_types=types).layer_kinds] == [None] * 22


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sliding_window": 0}, "sliding_window (`sliding_window`): expected a whole number of 1 to"),
        ({"sliding_window": -1}, "found -1"),
        ({"layer_types": ["full_attention"]}, "expected 2 names, one a layer, found '1 names'"),
        ({"layer_types": ["full_attention", 1]}, "expected a list of str"),
        ({"layer_types": ["full_attention", "chunked"]}, "found 'chunked'"),
        ({"layer_types": ["sliding_attention"] * 2}, "expected no sliding_attention without `sliding_window`"),
    ],
)
def test_windows_that_contradict_the_layers_are_refused(changes: dict[str, Any], told: str) -> None:
    places = ConfigMap(sliding_window="sliding_window", layer_types="layer_types")
    with pytest.raises(SourceError, match=re.escape(told)):
        _read(places=places, num_hidden_layers=2, **changes)


def test_dense_layers_among_experts() -> None:
    def kinds(**changes: Any) -> list[str]:
        places = ConfigMap(dense_layers="mlp_only_layers", sparse_step="decoder_sparse_step")
        changes = {"decoder_sparse_step": 1, **changes}
        config = _read("mixtral-8x7b", Traits(mlp="moe"), places, num_hidden_layers=4, **changes)
        return [kind.mlp for kind in config.layer_kinds]

    assert kinds() == ["moe"] * 4
    assert kinds(mlp_only_layers=[1]) == ["moe", "gated", "moe", "moe"]
    assert kinds(decoder_sparse_step=2) == ["gated", "moe", "gated", "moe"]


def test_an_unknown_activation_is_refused_and_an_alias_is_not() -> None:
    with pytest.raises(RefusedError, match="mish"):
        _read(hidden_act="mish")
    assert _read(hidden_act="gelu_new").activation == "gelu_tanh"


def test_a_part_of_a_head_turns_counted_as_a_fraction_or_in_elements() -> None:
    assert _read().rotary_dim == 64
    places = ConfigMap(rotary_fraction="partial_rotary_factor")
    assert _read(places=places, partial_rotary_factor=0.25).rotary_dim == 16
    nested = {"partial_rotary_factor": 0.5}
    assert _read(places=places, rope_parameters=nested, partial_rotary_factor=0.25).rotary_dim == 32
    assert _read(partial_rotary_factor=0.25).rotary_dim == 64
    assert _read(places=ConfigMap(rotary_dim="turning"), turning=24).rotary_dim == 24
    assert _read(traits=Traits(position="alibi")).rotary_dim == 0


def test_dynamic_scaling_is_none_within_the_trained_length() -> None:
    config = _read(rope_scaling={"type": "dynamic", "factor": 2.0})
    for asked, found in ((None, 2048), (2048, 2048), (4096, 4096)):
        built, limits = built_for(config, asked, 1)
        assert limits.max_positions == found
        assert (built.rope_scaling is None) == (found == 2048)
    assert built_for(config, None, 1, extended=True)[1].max_positions == 4096
    with pytest.raises(RefusedError, match="2 to 4096"):
        built_for(config, 4097, 1)


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"type": "linear", "factor": 2.0}, 4096),
        ({"type": "yarn", "factor": 4.0}, 8192),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}, 2048),
        ({"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32, "factor": 4.0}, 2048),
    ],
)
def test_positions_of_a_model_with_scaling(scaling: dict[str, Any], positions: int) -> None:
    assert built_for(_read(rope_scaling=scaling), None, 1)[1].max_positions == positions


def test_a_factor_of_linear_scaling_may_have_a_place_of_its_own() -> None:
    places = ConfigMap(rope_linear="ratio")
    assert _read(places=places, ratio=4).rope_scaling == RopeScaling("linear", 4.0)
    assert _read(places=places, ratio=1).rope_scaling is None
    assert _read(places=places).rope_scaling is None


@pytest.mark.parametrize("position", ["alibi", "learned"])
def test_scaling_of_what_does_not_turn_is_refused(position: Position) -> None:
    hf = published.CONFIGS["tinyllama"]
    with pytest.raises(RefusedError, match=f"this model has {position} positions"):
        read_config(hf, ConfigMap(), Traits(position=position), RopeScaling("linear", 2.0))


def test_flags_come_from_the_config_where_the_trait_says_so() -> None:
    traits = Traits(qkv_bias="attention_bias")
    assert _read(traits=traits, attention_bias=True).qkv_bias
    assert not _read(traits=traits).qkv_bias


@pytest.mark.parametrize("model", published.CONFIGS)
def test_json_and_back(model: str) -> None:
    hf = published.CONFIGS[model]
    config = recipes.for_config(hf)[1].resolve(hf).model_config(hf)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"future_scale": 0.5, "future_norm": True}, "ModelConfig .* future_norm, future_scale"),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0, "ramp": 1}}, "RopeScaling .* ramp"),
        ({"layer_kinds": [{"mlp": "gated", "norm": "after"}]}, "LayerKind .* norm"),
    ],
)
def test_fields_of_a_newer_version_are_refused(changes: dict[str, Any], named: str) -> None:
    data = _read().to_json()
    with pytest.raises(ArtifactError, match=f"{named}$") as caught:
        ModelConfig.from_json(data | changes, "9.1")
    assert "lmi-compile 9.1" in caught.value.message
    assert "upgrade" in caught.value.hint


def test_fields_with_their_default_need_not_be_there() -> None:
    config = _read("mistral-7b")
    data = config.to_json()
    assert "parallel_residual" not in data
    assert ModelConfig.from_json(data) == config == ModelConfig.from_json(json.loads(json.dumps(asdict(config))))
    with pytest.raises(ArtifactError, match="lacks hidden"):
        ModelConfig.from_json({name: value for name, value in data.items() if name != "hidden"})


def _published(model: str, **changes: Any) -> ModelConfig:
    hf = published.CONFIGS[model] | changes
    return recipes.for_config(hf)[1].resolve(hf).model_config(hf)


def test_scores_of_latent_attention_have_the_scale_of_a_whole_query_and_yarns_square() -> None:
    config = _published("deepseek-v3")
    assert (config.kv_heads, config.head_dim, config.rotary_dim, config.nope_dim) == (1, 128, 64, 128)
    assert config.attention_scale == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)
    assert _published("deepseek-v3", rope_scaling=None).attention_scale == pytest.approx(192**-0.5)
    assert [kind.mlp for kind in config.layer_kinds[:4]] == ["gated"] * 3 + ["moe"]


@pytest.mark.parametrize("changes", [{"n_group": 7}, {"topk_group": 1, "num_experts_per_tok": 33}])
def test_groups_that_cannot_hold_the_experts_of_a_token_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"expert_groups \(`n_group` or `topk_group`\)"):
        _published("deepseek-v3", **changes)


def test_gpt_oss_has_a_window_in_every_other_layer_and_yarn_unless_it_says_otherwise() -> None:
    hf = {k: v for k, v in published.CONFIGS["gpt-oss-20b"].items() if k not in ("layer_types", "rope_scaling")}
    found = recipes.for_config(hf)[1].model_config(hf)
    assert found.layer_kinds == _published("gpt-oss-20b").layer_kinds
    assert found.layer_kinds[:2] == (LayerKind("moe", 128), LayerKind("moe"))
    assert found.rope_scaling == _published("gpt-oss-20b").rope_scaling
    assert found.rope_scaling is not None
    assert (found.rope_scaling.kind, found.rope_scaling.factor, found.rope_scaling.truncate) == ("yarn", 32.0, False)


def test_an_empty_rope_section_of_gpt_oss_is_that_of_its_class() -> None:
    empty: list[dict[str, Any]] = [{"rope_scaling": None}, {"rope_scaling": None, "rope_parameters": {}}]
    for changes in empty:
        assert _published("gpt-oss-20b", **changes).rope_scaling == _published("gpt-oss-20b").rope_scaling
    hf = published.CONFIGS["gpt-oss-20b"]
    assert "rope_parameters" not in recipes.for_config(hf)[1].assumed(hf)


def test_gpt_oss_with_another_clamp_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"swiglu_limit 7.0, found 10.0"):
        _published("gpt-oss-20b", swiglu_limit=10.0)


def test_llama_4_rotates_within_chunks_and_reaches_further_in_every_fourth_layer() -> None:
    hf: dict[str, Any] = {"architectures": ["Llama4ForCausalLM"], "num_hidden_layers": 8}
    given: list[dict[str, Any]] = [{}, {"no_rope_layers": []}, {"no_rope_layers": [1, 1, 1, 0] * 2}]
    for changes in given:
        kinds = recipes.for_config(hf)[1].model_config({**hf, **changes}).layer_kinds
        assert kinds == (LayerKind("moe", chunk=8192),) * 3 + (LayerKind("moe", rope="none"),) + kinds[:4]
    config = recipes.for_config(hf)[1].model_config({**hf, "interleave_moe_layer_step": 2})
    assert [kind.mlp for kind in config.layer_kinds] == ["gated", "moe"] * 4
    config = recipes.for_config(hf)[1].model_config({**hf, "moe_layers": [2], "attn_temperature_tuning": 4})
    assert [i for i, kind in enumerate(config.layer_kinds) if kind.mlp == "moe"] == [2]
    assert (config.temperature_floor, config.temperature_scale) == (8192, 0.1)  # 4 is how Scout was first published
    assert recipes.for_config(hf)[1].model_config({**hf, "attn_temperature_tuning": False}).temperature_floor == 0
