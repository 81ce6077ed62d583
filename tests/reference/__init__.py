"""Who says what a checkpoint computes: transformers, or, for what it lacks, a small forward in `tests/reference/`.

Such a file is named after its recipe and has two functions:

    shapes(hf)                       names and shapes of the tensors of a published checkpoint with this config.json
    forward(hf, tensors, token_ids)  float32 tensors, int64 [B, S] -> logits float32 [B, S, vocab]

It is written from the description of the architecture, in plain torch, and imports nothing of the project.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAMES = {module.name for module in pkgutil.iter_modules(__path__)} - {"blocks", "module"}


def load(recipe: str) -> ModuleType | None:
    """The reference of a recipe; None where transformers is the reference."""
    return importlib.import_module(f"tests.reference.{recipe}") if recipe in NAMES else None


def logits(checkpoint: Path, token_ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Logits float32 [B, S, vocab] of a tiny checkpoint, computed in `dtype` (float32)."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    import recipes

    dtype = dtype or torch.float32
    hf = json.loads((checkpoint / "config.json").read_text())
    own = load(recipes.for_config(hf)[0])
    with torch.no_grad():
        if own is not None:
            tensors = {name: tensor.to(dtype) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
            found: Tensor = own.forward(hf, tensors, token_ids)
        else:
            # transformers' eager attention of Falcon adds ALiBi twice: to the scores and to the mask
            attention = "sdpa" if hf["model_type"] == "falcon" else "eager"
            model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation=attention)
            found = model(token_ids).logits
    return found.float()
