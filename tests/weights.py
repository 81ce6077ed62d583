"""Rank files as dictionaries of torch tensors, made in memory from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

import recipes
from compiler.decoder.rankfile.layout import KEPT, rank_plans
from compiler.model.account import account
from compiler.model.config import ModelConfig
from compiler.model.lazy import Lazy, read, whole
from compiler.model.roles import TensorId
from compiler.storage.checkpoints.checkpoint import open_checkpoint

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def model_config(checkpoint: Path) -> ModelConfig:
    """The config of a checkpoint folder, through its recipe."""
    hf = json.loads((checkpoint / "config.json").read_text())
    _, recipe = recipes.for_config(hf)
    return recipe.resolve(hf).model_config(hf)


def rank_weights(checkpoint: Path, tp: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Tensors of every rank's file, by name, as `dtype`, but for roles that keep their own."""
    opened = open_checkpoint(checkpoint)
    _, recipe = recipes.for_config(opened.config)
    recipe = recipe.resolve(opened.config)
    config = recipe.model_config(opened.config)
    tensors = account(recipe, config, opened.tensors).tensors
    source = _Bits(opened.files)
    stored = next(iter(tensors.values())).dtype
    return [
        {name: _tensor(lazy, source).to(torch.float32 if _role(name) in KEPT else dtype) for name, lazy in plan.tensors}
        for plan in rank_plans(config, tp, tensors, stored)
    ]


def _role(name: str) -> str:
    """`moe.correction` of `layers.1.moe.correction.weight`."""
    return ".".join(name.split(".")[-3:-1])


def canonical_weights(checkpoint: Path) -> dict[TensorId, NDArray[np.float32]]:
    """The canonical tensors of a checkpoint, one dimension an axis."""
    opened = open_checkpoint(checkpoint)
    _, recipe = recipes.for_config(opened.config)
    recipe = recipe.resolve(opened.config)
    filled = account(recipe, recipe.model_config(opened.config), opened.tensors)
    source = _Bits(opened.files)
    return {name: _tensor(lazy, source).float().numpy() for name, lazy in filled.tensors.items()}


def joined(config: ModelConfig, tensors: Mapping[TensorId, NDArray[np.float32]]) -> dict[str, Tensor]:
    """The tensors of the rank file at tp 1, from canonical ones."""
    lazies = {t: whole(str(t), values.shape, "F32") for t, values in tensors.items()}
    flat = {str(t): np.ascontiguousarray(values).reshape(-1).view(np.uint32) for t, values in tensors.items()}
    (plan,) = rank_plans(config, 1, lazies, "F32")
    return {name: torch.from_numpy(read(lazy, flat.__getitem__).view(np.float32)) for name, lazy in plan.tensors}


class _Bits:
    """A source tensor of the checkpoint as a flat array of unsigned integers."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._tensors: dict[str, Tensor] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                self._tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 - no mapping

    def __call__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name].flatten()
        bits = tensor.view(_BITS[tensor.dtype]).numpy()
        return bits.view(f"u{bits.itemsize}")


def _tensor(lazy: Lazy, source: _Bits) -> Tensor:
    bits = read(lazy, source)
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(_DTYPES[lazy.source_dtype])
