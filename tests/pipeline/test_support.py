from __future__ import annotations

import pytest

import recipes
from compiler import targets
from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.pipeline.support import CHOICES, refusals, taken
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from tests import published


def _config(model: str) -> tuple[str, ModelConfig]:
    hf = published.CONFIGS[model]
    name, recipe = recipes.for_config(hf)
    return name, recipe.resolve(hf, None).model_config(hf, None)


def _takes(target: str, config: ModelConfig, quant: Quant) -> bool:
    try:
        chosen = targets.load(target)
        taken(chosen, config, quant, 1, chosen.options(), None)
    except RefusedError:
        return False
    return True


@pytest.mark.parametrize("target", targets.available())
@pytest.mark.parametrize("recipe", sorted({_config(model)[0] for model in published.CONFIGS}))
def test_a_recipe_is_taken_as_some_published_model_of_it_is(recipe: str, target: str) -> None:
    configs = [config for name, config in map(_config, published.CONFIGS) if name == recipe]
    found = refusals(recipes.load(recipe), targets.load(target))
    # The recipe is asked in sizes that divide into groups; 2880 columns (gpt-oss) and 10944 (DeepSeek-V2-Lite) do not.
    indivisible = recipe in ("gpt_oss", "deepseek_v2")
    asked = [q for q in CHOICES if not indivisible or q.scheme is None or q.scheme.weight_scales != "group"]
    assert {quant: not found[quant] for quant in asked} == {
        quant: any(_takes(target, config, quant) for config in configs) for quant in asked
    }


def test_a_refusal_has_its_reason() -> None:
    found = refusals(recipes.load("mixtral"), targets.load("trtllm"))
    assert found[Quant(SCHEMES["fp8"])] == ""
    assert "no SmoothQuant for the experts" in found[Quant(SCHEMES["smoothquant"])]
