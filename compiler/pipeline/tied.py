"""Ties between head and embedding, decided by comparing where config.json and the file contradict each other.

A config.json that ties them beside a different head: the head counts, as in transformers 5. Transformers 4 and vLLM tie
them and drop it, so the plan says it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from compiler.model.recipe import Recipe
    from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor

KEY = "tie_word_embeddings"

_BLOCK = 1 << 20
"""Elements compared at a time."""
_SAMPLES = 64
"""Blocks of a plan's comparison, spread over the tensor: a plan reads no whole weight."""


def untie_different(checkpoint: Checkpoint, recipe: Recipe, variant: str | None, *, whole: bool) -> Checkpoint:
    """The checkpoint, untied in its config and with a note where it stores a head that is not the embedding.

    `whole`: compare all elements; else some, which finds any head that was trained by itself.
    """
    resolved, untied = recipe.resolve(checkpoint.config, variant), {**checkpoint.config, KEY: False}
    if not resolved.model_config(checkpoint.config).tied or resolved.model_config(untied).tied:
        return checkpoint
    embedding, head = _stored(checkpoint, resolved, "embed"), _stored(checkpoint, resolved, "head")
    if embedding is None or head is None:
        return checkpoint
    names = f"`{head.name}` and `{embedding.name}`"
    if embedding.file is None or head.file is None:
        note = f"config.json ties {names}; they are compared when the weights are here, and not tied if they differ"
        return replace(checkpoint, notes=(*checkpoint.notes, note))
    if _equal(embedding, head, whole=whole):
        return checkpoint
    note = f"config.json ties {names}, which differ: not tied, as in transformers 5 (transformers 4 drops the head)"
    return replace(checkpoint, config=untied, notes=(*checkpoint.notes, note))


def _stored(checkpoint: Checkpoint, recipe: Recipe, role: str) -> SourceTensor | None:
    """The tensor that is the weight of `role`."""
    patterns = [pattern for pattern, mapping in recipe.patterns if mapping.role_names == (role,)]
    for name, tensor in checkpoint.tensors.items():
        if any((found := pattern.fullmatch(name)) and found["part"] != "bias" for pattern in patterns):
            return tensor
    return None


def _equal(one: SourceTensor, other: SourceTensor, *, whole: bool) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    size = prod(one.shape)
    step = _BLOCK if whole else max(size // _SAMPLES, 1)
    count = _BLOCK if whole else min(step, _BLOCK // _SAMPLES)
    a, b = one.bits(), other.bits()
    return all(np.array_equal(a[at : at + count], b[at : at + count]) for at in range(0, size, step))
