"""The meaning of absent keys: what the configuration classes of transformers say."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

import recipes
from compiler.model import Layers
from compiler.model.notes import keys_read
from tests import published

ROPE = {"rope_scaling", "rope_parameters"}
LEGACY = {frozenset(("n_embed", "hidden_size"))}
"""Other spellings that the code of a class reads, beside its attribute_map."""


def _class(recipe: str) -> Any:
    """Configuration class of the recipe's first architecture; None where transformers has none."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    types = {architecture: kind for kind, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}
    kind = types.get(recipes.load(recipe).hf_architectures[0])
    return None if kind is None else CONFIG_MAPPING[kind]


def _known() -> list[str]:
    return [name for name in recipes.available() if _class(name) is not None]


@pytest.mark.parametrize("name", _known())
def test_a_default_is_that_of_the_class(name: str) -> None:
    recipe, kind = replace(recipes.load(name), variants=()), _class(name)
    stated = {
        field.name: field.default
        for field in fields(kind)
        if field.default is not MISSING and field.name in keys_read(recipe) - set(recipe.assumes) - ROPE
    }
    if "rope_theta" in keys_read(recipe):
        theta = kind.default_theta
        stated["rope_theta"] = theta["global"] if isinstance(theta, dict) else theta
    for layers in (recipe.traits.windowed, recipe.traits.rotated):
        if isinstance(layers, Layers) and layers.period in stated:
            assert stated.pop(layers.period) == layers.every
    wrong = {
        key: (value, recipe.defaults.get(key)) for key, value in stated.items() if recipe.defaults.get(key) != value
    }
    assert not wrong, f"default of {kind.__name__}, and of the recipe: {wrong}"


@pytest.mark.parametrize("name", _known())
def test_aliases_and_model_types_are_those_of_the_class(name: str) -> None:
    recipe, kind = recipes.load(name), _class(name)
    same = {frozenset(pair) for pair in kind.attribute_map.items()}
    assert {frozenset(pair) for pair in recipe.aliases.items()} <= same | LEGACY
    assert kind.model_type in recipe.model_types


@pytest.mark.parametrize("name", recipes.available())
def test_a_default_is_read(name: str) -> None:
    recipe = recipes.load(name)
    variants = [recipe.resolve({}, variant.name) for variant in recipe.variants] or [recipe]
    read = set.union(*map(keys_read, [recipe, *variants])) | {"original_max_position_embeddings"}
    assert set(recipe.defaults) <= read


@pytest.mark.parametrize("name", sorted({*_known()} - {"deepseek_v2"}))  # its class names no experts per token
def test_an_empty_config_is_the_class_as_it_is(name: str) -> None:
    kind = _class(name)
    theirs = kind()
    config = recipes.load(name).model_config({"architectures": [recipes.load(name).hf_architectures[0]]})
    assert (config.layers, config.hidden, config.heads, config.vocab) == (
        theirs.num_hidden_layers, theirs.hidden_size, theirs.num_attention_heads, theirs.vocab_size,
    )  # fmt: skip
    assert config.tied == theirs.tie_word_embeddings
    if config.position == "rope" and getattr(theirs, "rope_parameters", None):
        section = theirs.rope_parameters.get("full_attention", theirs.rope_parameters)
        assert config.rope_theta == section["rope_theta"]


@pytest.mark.parametrize(
    ("model", "absent", "field", "value"),
    [
        ("mistral-7b", "sliding_window", "layer_kinds", 4096),
        ("qwen2-7b", "use_sliding_window", "layer_kinds", None),
        ("llama3-8b", "rms_norm_eps", "norm_eps", 1e-6),
        ("glm-4-9b-hf", "attention_bias", "qkv_bias", True),
        ("starcoder2-7b", "use_bias", "mlp_bias", True),
        ("mixtral-8x7b", "rope_theta", "rope_theta", 1e6),
    ],
)
def test_an_absent_key_means_the_default_of_the_architecture(
    model: str, absent: str, field: str, value: object
) -> None:
    hf = {key: item for key, item in published.CONFIGS[model].items() if key != absent}
    config = recipes.for_config(hf)[1].model_config(hf)
    found = config.layer_kinds[-1].window if field == "layer_kinds" else getattr(config, field)
    assert found == value
