"""A reference as something that can be trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_SPREAD = 0.02
_COMPUTED = "inv_freq"
"""Ends the names of tensors that checkpoints have and nobody reads."""


class OfReference(torch.nn.Module):
    """What transformers calls a model, as far as training goes. Weights are small and random, norms 1, biases 0."""

    def __init__(self, reference: ModuleType, hf: Mapping[str, Any]) -> None:
        super().__init__()
        self._reference, self._hf = reference, dict(hf)
        self._names = list(reference.shapes(hf))
        self._tensors = torch.nn.ParameterList(
            torch.nn.Parameter(_first(name, shape), requires_grad=not name.endswith(_COMPUTED))
            for name, shape in reference.shapes(hf).items()
        )

    def forward(self, token_ids: Tensor) -> SimpleNamespace:
        """int64 [B, S] -> `logits` [B, S, vocab]"""
        tensors = dict(zip(self._names, self._tensors, strict=True))
        return SimpleNamespace(logits=self._reference.forward(self._hf, tensors, token_ids))

    def save_pretrained(self, folder: Path) -> None:
        """config.json and model.safetensors, as published."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {n: t.detach().contiguous() for n, t in zip(self._names, self._tensors, strict=True)}
        dtype = str(tensors[self._names[0]].dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps({**self._hf, "torch_dtype": dtype}, indent=2) + "\n")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _first(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    return torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * _SPREAD
