"""From the files of a checkpoint, through `convert`, to files that the judge reads: every recipe, every tiny case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import recipes
from compiler import targets
from compiler.errors import RefusedError
from compiler.model.config import ModelConfig
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.request import Ask, PlanRequest
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.read import RankTensors
from tests import reference
from tests.rows import refused, without_row
from tests.targets.trtllm.ranks import logits
from tests.tiny import TINY
from tests.weights import model_config

TOKENS = np.random.default_rng(1).integers(0, 250, 24)

REFUSED = {
    "qwen2_moe": "mixes them",  # dense layers among those with experts
    "qwen3/tied": "biases are on nothing",
    "phi3/partial-rotation": "the rotation covers all",
}
"""What TensorRT-LLM's model classes cannot compute, and a word of the reason."""


def _convert(checkpoint: Path, folder: Path, tp: int, version: str = "0.21.0") -> ModelConfig:
    ask = Ask(tp=tp, dtype="float32", options=TrtllmOptions(version=version))
    request = PlanRequest(model=str(checkpoint), recipes=recipes, target="trtllm", ask=ask)
    return convert_to(request, folder).config


@pytest.mark.parametrize("tp", [2, 8])
@pytest.mark.parametrize("case", TINY)
def test_converted_ranks_give_the_logits_of_the_source(
    case: str, tp: int, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint, out = tiny_checkpoint(case), tmp_path / "out"
    source = model_config(checkpoint)
    if source.heads % tp or (source.kv_heads % tp and tp % source.kv_heads):
        with pytest.raises(RefusedError):
            _convert(checkpoint, out, tp)
        assert not out.exists()
        return
    reason = without_row(targets.load("trtllm"), source)
    if reason:
        with refused(source, reason):
            _convert(checkpoint, out, tp)
        assert not out.exists()
        return
    if case in REFUSED:
        with pytest.raises(RefusedError, match=REFUSED[case]):
            _convert(checkpoint, out, tp)
        return
    config = _convert(checkpoint, out, tp)
    found = logits(
        json.loads((out / "config.json").read_text()),
        [RankTensors(out / f"rank{rank}.safetensors") for rank in range(tp)],
        TOKENS,
        [kind.window for kind in config.layer_kinds],
    )
    expected = reference.logits(checkpoint, torch.from_numpy(TOKENS)[None], torch.float32)[0].numpy()
    # A normalised head is rounded to the checkpoint's bfloat16 when it is converted, as the model itself rounds it.
    tolerance = 3e-4 if config.head == "plain" else 4e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
