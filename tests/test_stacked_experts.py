"""Experts in one tensor a matrix, as transformers 5 may save them: the rank files of those stored one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recipes
from compiler import targets
from compiler.model import lazy
from compiler.model.account import account
from compiler.model.lazy import ITEMSIZE
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint
from compiler.targets.trtllm.options import TrtllmOptions
from tests.rows import without_row
from tests.support_table import CONVERTING
from tests.tiny import write_checkpoint

CASES = ("mixtral", "qwen2_moe", "qwen3_moe")


def _stacked(folder: Path) -> Path:
    """The checkpoint saved again by transformers with save_original_format=False."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.save_pretrained(folder.with_name("stacked"), save_original_format=False)
    return folder.with_name("stacked")


def _files(checkpoint: Checkpoint, target: str, tp: int) -> dict[str, bytes]:
    """Bits of every tensor of every rank."""
    recipe = recipes.for_config(checkpoint.config)[1].resolve(checkpoint.config)
    config = recipe.model_config(checkpoint.config)
    tensors = account(recipe, config, checkpoint.tensors).tensors
    chosen = targets.load(target)
    assert chosen.layout is not None
    options = TrtllmOptions(version="0.21.0") if target == "trtllm" else chosen.options()
    if without_row(chosen, config, options):
        return {}
    plans = chosen.layout.rank_plans(config, tp, tensors, "BF16", options)
    data = {name: _bits(checkpoint, name) for name in checkpoint.tensors}
    return {f"{p.file}:{name}": lazy.read(t, data.__getitem__).tobytes() for p in plans for name, t in p.tensors}


def _bits(checkpoint: Checkpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensors[name]
    assert tensor.file is not None
    width = ITEMSIZE[tensor.dtype]
    return np.fromfile(tensor.file, f"u{width}", tensor.nbytes // width, offset=tensor.offset)


@pytest.mark.parametrize("case", CASES)
def test_stacked_experts_give_the_rank_files_of_experts_one_by_one(case: str, tmp_path: Path) -> None:
    single = open_checkpoint(write_checkpoint(case, tmp_path / "single"))
    stacked = open_checkpoint(_stacked(tmp_path / "single"))
    assert any(name.endswith("experts.gate_up_proj") for name in stacked.tensors)
    assert not any(".experts.0." in name for name in stacked.tensors)
    for target in CONVERTING:
        for tp in (1, 2, 4):
            assert _files(stacked, target, tp) == _files(single, target, tp), (target, tp)
