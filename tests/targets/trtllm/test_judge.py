"""Rank files, read by TensorRT-LLM's names and semantics, give the logits of transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.targets import PLAIN, TargetOptions
from compiler.targets.trtllm.judge import logits
from tests.targets.trtllm.models import CASES, TOKENS, tensors_of
from tests.targets.trtllm.ranks import config_of, ranks_of

FIRST = {"qwen3": "0.21.0"}
"""The versions of the cases that the default version has not."""


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_simulated_ranks_give_the_logits_of_transformers(name: str, tp: int) -> None:
    config = CASES[name].config
    tensors, expected = tensors_of(name)
    options = replace(PLAIN, version=FIRST.get(name, ""))
    found = logits(
        config_of(config, tp, options), ranks_of(config, tensors, tp, options), TOKENS,
        [kind.window for kind in config.layer_kinds],
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
