"""A short conformance run, with the installed transformers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.compare import conform, equal


@pytest.mark.parametrize("recipe", ["llama", "qwen2", "phi3", "gpt_neox"])
def test_random_configs_give_the_logits_of_transformers_or_a_refusal(recipe: str, tmp_path: Path) -> None:
    found = conform(recipe, 5, sys.executable, tmp_path)
    assert not found.wrong
    assert found.equal >= 2


@pytest.mark.parametrize(
    ("own", "theirs", "same"),
    [
        (9e-6, 0.0, True),  # within the limit
        (2e-5, 0.0, False),
        (3e-5, -2e-5, True),  # further from exact than theirs, but not twice as far
        (5e-5, -2e-5, False),
        (2e-4, -2e-4, False),  # more than rounding, of both
        (1.0, 1.0, True),  # the same choice of experts, although float64 chooses others
    ],
)
def test_logits_are_equal_up_to_the_rounding_of_transformers(own: float, theirs: float, same: bool) -> None:
    exact = np.linspace(-1.0, 1.0, 11)
    assert equal(exact + own, exact + theirs, exact) == same
