"""A short conformance run, with the installed transformers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conformance.compare import conform


@pytest.mark.parametrize("recipe", ["llama", "qwen2", "phi3", "gpt_neox"])
def test_random_configs_give_the_logits_of_transformers_or_a_refusal(recipe: str, tmp_path: Path) -> None:
    found = conform(recipe, 5, sys.executable, tmp_path)
    assert not found.wrong
    assert found.equal >= 2
