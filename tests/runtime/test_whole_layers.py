"""A layer as one segment computes what its parts compute; artifacts from before there were such segments still run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from compiler.decoder.segments import are_whole, segment_names
from compiler.runtime.commands import StepCommand
from compiler.runtime.load import assemble
from tests.runtime.eager import LIMITS
from tests.simulated import run_eagerly
from tests.weights import model_config, rank_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compiler.runtime.engine import Logits

PROMPTS = np.array([[3, 5, 7, 11, 2], [13, 1, 4, 6, 8]])


def _logits(folder: Path, *, whole: bool) -> list[Logits]:
    """Logits of a step of prefill and of one of decoding, at tp 1."""
    config = model_config(folder)
    layers = [segment_names(config, kind, whole=whole) for kind in config.layer_kinds]
    assert are_whole(layers) is whole
    share = assemble(config, LIMITS, layers, rank_weights(folder, 1)[0], run_eagerly, rank=0, tp=1, device="cpu")
    batch, length = PROMPTS.shape
    share.allocate(batch, length + 1)
    places = np.broadcast_to(np.arange(length), PROMPTS.shape)
    found = [share.step(StepCommand(PROMPTS, places, places, length)), share.step(_next())]
    assert found[0] is not None
    assert found[1] is not None
    return [one.copy() for one in found if one is not None]


def _next() -> StepCommand:
    tokens = np.array([[9], [10]])
    return StepCommand(tokens, np.full_like(tokens, 5), np.zeros_like(tokens), 6)


@pytest.mark.parametrize(
    "case", ["llama/biases", "mixtral", "gemma2", "olmo2", "gptj", "granite", "deepseek_v3", "gpt_oss", "bloom"]
)
def test_a_whole_layer_computes_what_its_parts_compute(case: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint(case)
    for parts, whole in zip(*(_logits(folder, whole=whole) for whole in (False, True)), strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-5)
        assert np.abs(parts).max() > 0.01
