"""Any JSON as a value of any key that a recipe reads: a ModelConfig or one error with file, key and value."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recipes
from compiler.errors import LmiCompileError
from compiler.model.config import ModelConfig
from compiler.model.limits import built_for
from compiler.model.notes import config_notes, keys_read
from tests.tiny import TINY, recipe_of

LIKELY = ["linear", "yarn", "longrope", "silu", "sliding_attention", "full_attention", "bfloat16", "LlamaForCausalLM"]
SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 300) | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(LIKELY)
)  # fmt: skip
ROPE_KEYS = ["rope_type", "type", "factor", "rope_theta", "short_factor", "long_factor", "low_freq_factor", "beta_fast",
             "high_freq_factor", "original_max_position_embeddings", "partial_rotary_factor", "attention_factor",
             "truncate", "mscale", "mscale_all_dim", "full_attention", "sliding_attention"]  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ROPE_KEYS), inner, max_size=5),
    max_leaves=8,
)
ALWAYS = {"architectures", "model_type", "dtype", "torch_dtype", "rope_scaling", "rope_parameters",
          "original_max_position_embeddings"}  # fmt: skip
NO_VALUES: tuple[object, ...] = (None, True, -1, 0, 1.5, 10**400, float("nan"), float("inf"), "linear", [], [[1]], {})


def _read(recipe: str, hf: dict[str, Any]) -> None:
    """Read `hf` as a plan does."""
    with suppress(LmiCompileError):
        config = recipes.load(recipe).resolve(hf).model_config(hf)
        assert isinstance(config, ModelConfig)
        built_for(config, None, 1)
        config_notes(recipes.load(recipe).resolve(hf), hf)
    with suppress(LmiCompileError):
        recipes.for_config(hf)


@pytest.mark.parametrize("case", [case for case in TINY if "/" not in case])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_values_give_a_config_or_an_error(case: str, data: st.DataObject) -> None:
    recipe = recipes.load(recipe_of(case))
    keys = sorted({*keys_read(recipe), *recipe.defaults, *TINY[case]} | ALWAYS)
    changes = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=4))
    _read(recipe_of(case), TINY[case] | changes)


@pytest.mark.parametrize("case", [case for case in TINY if "/" not in case])
def test_each_key_with_each_wrong_value(case: str) -> None:
    recipe = recipes.load(recipe_of(case))
    for key in sorted({*keys_read(recipe), *recipe.defaults, *TINY[case]} | ALWAYS):
        for value in NO_VALUES:
            _read(recipe_of(case), TINY[case] | {key: value})
