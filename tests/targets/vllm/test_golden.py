"""Shards are those that vLLM 0.32.0 saved itself: golden.json, recorded by `scripts/test-vllm`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import recipes
from compiler.model import lazy
from compiler.model.account import account
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from compiler.targets.vllm.architectures import COMPARED_ROWS
from compiler.targets.vllm.layout import rank_plans
from compiler.targets.vllm.version import COMPARED
from tests.targets.vllm.golden_cases import CASES, GOLDEN, OVERRIDES, TPS, Shard, bits, digest, names
from tests.tiny import recipe_of, write_checkpoint

if TYPE_CHECKING:
    from compiler.model.lazy import Lazy
    from compiler.storage.checkpoints.checkpoint import Checkpoint

EXPECTED = json.loads(GOLDEN.read_bytes())


@pytest.mark.parametrize("case", CASES)
def test_shards_have_the_bits_of_save_sharded_state(
    case: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = write_checkpoint(case, tmp_path, **OVERRIDES[case]) if case in OVERRIDES else tiny_checkpoint(case)
    checkpoint = open_checkpoint(folder)
    for tp in TPS:
        ranks = [shard(checkpoint, case, tp, rank) for rank in range(tp)]
        if tp == TPS[-1] and case in EXPECTED["names"]:
            assert names(ranks[0]) == EXPECTED["names"][case]
        assert [digest(rank) for rank in ranks] == EXPECTED["digests"][case][str(tp)]


def test_what_is_called_compared_was_compared() -> None:
    recorded = {recipe_of(case) for case in EXPECTED["digests"]}
    architectures = {name for recipe in recorded for name in recipes.load(recipe).hf_architectures}
    assert set(CASES) == set(EXPECTED["digests"])
    assert architectures >= set(COMPARED_ROWS)
    assert EXPECTED["vllm"] == COMPARED


def shard(checkpoint: Checkpoint, case: str, tp: int, rank: int) -> Shard:
    """File of one rank, from a checkpoint whose numbers are those of `bits`."""
    _, recipe = recipes.for_config(checkpoint.config)
    recipe = recipe.resolve(checkpoint.config)
    config = recipe.model_config(checkpoint.config)
    filled = account(recipe, config, checkpoint.tensors)
    plan = rank_plans(config, tp, filled.tensors, "BF16")[rank]
    return {name: (tensor.dtype, tensor.shape, _data(tensor, checkpoint)) for name, tensor in plan.tensors}


def _data(tensor: Lazy, checkpoint: Checkpoint) -> bytes:
    def source(name: str) -> np.ndarray:
        found = checkpoint.tensors[name]
        itemsize = lazy.ITEMSIZE[tensor.source_dtype]
        return bits(name, found.nbytes // lazy.ITEMSIZE[found.dtype], itemsize)

    if tensor.fold == "plus_one":
        return np.float32(1).tobytes()
    found = lazy.read(tensor, source)
    if tensor.dtype == "F32" and tensor.source_dtype == "BF16":
        found = found.astype(np.uint32) << np.uint32(16)
    return found.tobytes()
