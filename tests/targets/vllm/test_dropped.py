"""Architectures that vLLM has no more."""

from __future__ import annotations

import pytest

from compiler.errors import RefusedError
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.target import TARGET
from tests.tiny import model_config

CHECK = TARGET.support.check


@pytest.mark.parametrize("weights", ["auto", "plain", "shards"])
@pytest.mark.parametrize(
    ("recipe", "last", "image"),
    [("mpt", "0.28", "lmi29"), ("qwen", "0.23", "lmi27"), ("internlm", "0.23", "lmi27"), ("baichuan", "0.23", "lmi27")],
)
def test_a_dropped_architecture_is_refused_with_the_last_release_that_has_it(
    recipe: str, last: str, image: str, weights: str
) -> None:
    config = model_config(recipe)
    with pytest.raises(RefusedError, match=f"vLLM dropped it, {last} was the last with it; found 0.32.0") as caught:
        CHECK(config, 1, VllmOptions(weights=weights))
    assert image in caught.value.hint
    assert f"--vllm-version {last}.0" in caught.value.hint


@pytest.mark.parametrize("recipe", ["mpt", "qwen", "internlm", "baichuan"])
def test_the_last_release_with_it_takes_it(recipe: str) -> None:
    CHECK(model_config(recipe), 1, VllmOptions(image="lmi27"))


def test_an_architecture_that_no_release_had_is_refused() -> None:
    with pytest.raises(RefusedError, match="vLLM never had this class"):
        CHECK(model_config("santacoder"), 1, VllmOptions())
