"""Ties between head and embedding, decided by comparing where config.json and the file contradict each other.

A config.json that ties them beside a different head: the head counts, as in transformers 5. Transformers 4 and vLLM tie
them and drop it, so the plan says it.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.storage.files.cast import CASTABLE, cast_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compiler.model.recipe import Recipe
    from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor

KEY = "tie_word_embeddings"

_BLOCK = 1 << 20
"""Elements compared at a time."""


def untie_different(checkpoint: Checkpoint, recipe: Recipe, variant: str | None) -> Checkpoint:
    """The checkpoint, untied in its config and with a note where it stores a head that is not the embedding.

    Reads both only where both are stored, and up to the first difference.
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
    if _equal(embedding, head):
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


def _equal(one: SourceTensor, other: SourceTensor) -> bool:
    if one.shape != other.shape or (one.dtype != other.dtype and not {one.dtype, other.dtype} <= set(CASTABLE)):
        return False
    a, b = one.bits(), other.bits()
    parts = (slice(at, at + _BLOCK) for at in range(0, prod(one.shape), _BLOCK))
    if one.dtype == other.dtype:
        return all(np.array_equal(a[part], b[part]) for part in parts)
    return all(np.array_equal(_float32(a[part], one.dtype), _float32(b[part], other.dtype)) for part in parts)


def _float32(bits: NDArray[Any], dtype: str) -> NDArray[np.uint32]:
    out = np.empty(bits.size, np.uint32)
    cast_bits(bits, dtype, out, "F32")
    return out
