"""Rank files in memory: what the layouts make of canonical tensors, folds applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.model.config import ModelConfig
from compiler.model.fold import fold
from compiler.model.lazy import read, whole
from compiler.model.roles import TensorId
from compiler.targets.trtllm.check import check
from compiler.targets.trtllm.config import checkpoint_config
from compiler.targets.trtllm.judge import CheckpointJudge
from compiler.targets.trtllm.judge_model import BLOCK, Tensors
from compiler.targets.trtllm.layout import rank_plans
from compiler.targets.trtllm.options import PLAIN, TrtllmOptions

Array = NDArray[np.float32]


def ranks_of(
    config: ModelConfig, tensors: Mapping[TensorId, Array], tp: int, options: TrtllmOptions = PLAIN
) -> list[dict[str, Array]]:
    """The tensors of every rank file, in float32."""
    check(config, tp, options)
    lazies = {t: whole(str(t), array.shape, "F32") for t, array in tensors.items()}
    flat = {str(t): array.ravel().view("u4") for t, array in tensors.items()}
    plans = rank_plans(config, tp, lazies, "F32", options)
    assert [plan.file for plan in plans] == [f"rank{r}.safetensors" for r in range(tp * options.pp)]
    return [
        {name: fold(t.fold, read(t, flat.__getitem__).view("f4"), lambda x: x) for name, t in plan.tensors}
        for plan in plans
    ]


def config_of(config: ModelConfig, tp: int, options: TrtllmOptions = PLAIN) -> dict[str, Any]:
    return checkpoint_config(config, tp, "float32", options)


def logits(
    config: Mapping[str, Any],
    ranks: Sequence[Tensors],
    token_ids: NDArray[np.int64],
    windows: Sequence[int | None] = (),
    block: int = BLOCK,
) -> Array:
    """What the judge says of rank files: float32 [S, vocab]."""
    return CheckpointJudge(config, ranks, windows, block).logits(token_ids)
