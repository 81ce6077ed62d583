"""Logits at 200 tokens against the reference: beyond windows, and at distances where positions matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compiler.decoder.forward import forward
from tests import reference
from tests.tiny_families import FAMILIES
from tests.weights import model_config, rank_weights

LENGTH = 200
TOLERANCE = 1e-5
"""Largest difference, relative to the largest logit."""


@pytest.mark.parametrize("case", FAMILIES)
def test_logits_of_200_tokens_are_those_of_the_reference(case: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint(case)
    config = model_config(folder)
    token_ids = torch.randint(0, config.vocab, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    found = forward(config, rank_weights(folder, tp=1)[0], token_ids)
    expected = reference.logits(folder, token_ids)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
