"""Reference logits of the source model in float32, for the rows of a proof (`proof.py`, `passages.py`).

Computed by `transformers`, an independent implementation; where the model in float32 is beyond the ceiling of memory,
with weights that are widened module by module (`widening.py`); where transformers does not know the architecture, by
the decoder in float32, one layer at a time. The artifact keeps them, and can then be verified without its source.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from compiler.machine import available_memory
from compiler.model.dtypes import DTYPES, TORCH
from compiler.model.lazy import Lazy, read
from compiler.model.rope import ORIGINAL
from compiler.numerics.foreign import (
    known_to_transformers,
    transformers_config,
    transformers_logits,
    transformers_model,
)
from compiler.numerics.passages import Expected, Passage
from compiler.numerics.widening import widen_on_use
from compiler.storage.files.cast import cast_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from transformers import PretrainedConfig

    from compiler.model.config import ModelConfig
    from compiler.model.roles import TensorId
    from compiler.storage.checkpoints.checkpoint import Checkpoint

    Ids = NDArray[np.int64]
    Logits = NDArray[np.float32]

_LIMITS = ("sliding_window", "attention_chunk_size", "window_size", "floor_scale")
"""Attributes of transformers' configs that change attention beyond them, in positions."""


def source_passages(
    config: ModelConfig,
    lowered: ModelConfig | None,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    rows: tuple[Sequence[Ids], Sequence[Ids]],
    max_memory: int | None = None,
) -> tuple[str, Expected]:
    """Program ("transformers" or "decoder"), and the logits of `config` for rows[0], of `lowered` for rows[1]."""
    who, straight = reference_logits(config, tensors, checkpoint, rows[0], max_memory=max_memory)
    expected = Expected(Passage.of(rows[0], straight))
    if lowered is not None:
        _, found = reference_logits(config, tensors, checkpoint, rows[1], lowered, max_memory)
        expected = Expected(expected.straight, Passage.of(rows[1], found))
    return who, expected


def reference_logits(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    rows: Sequence[Ids],
    lowered: ModelConfig | None = None,
    max_memory: int | None = None,
) -> tuple[str, list[Logits]]:
    """Program, and its logits float32 [tokens, vocab] for each of `rows`, int64 [tokens]. `lowered`: the model with
    other limits, to compute in place of `config`. `max_memory`: ceiling of weights in float32, in bytes; None: the
    memory that is free.
    """
    if known_to_transformers(checkpoint.config):
        sizes = [4 * prod(tensor.shape) for tensor in checkpoint.tensors.values()]
        free, stored = available_memory(), {tensor.dtype for tensor in checkpoint.tensors.values()}
        if 1.2 * sum(sizes) < min(free, max_memory or free):
            return "transformers", _by_transformers(config, checkpoint, rows, lowered)
        # With one dtype only, so that no tensor is rounded on the way.
        if len(stored) == 1 and stored <= {*DTYPES.values()} and 2 * max(sizes) < free:
            found = _by_transformers(config, checkpoint, rows, lowered, TORCH[stored.pop()])
            if found:
                return "transformers", found
        if 1.2 * sum(sizes) < free:
            return "transformers", _by_transformers(config, checkpoint, rows, lowered)
    return "decoder", _by_decoder(lowered or config, tensors, checkpoint, rows)


def _by_transformers(
    config: ModelConfig,
    checkpoint: Checkpoint,
    rows: Sequence[Ids],
    lowered: ModelConfig | None,
    dtype: str = "float32",
) -> list[Logits]:
    """Logits of each row, computed in float32 from weights in `dtype`; none where these cannot stay in it."""
    # config.json is the source's, except for the user's rope scaling, and for lowered limits.
    found = transformers_config(checkpoint.config)
    _rescale(found, lowered or config, always=lowered is not None and lowered.rope_scaling != config.rope_scaling)
    if lowered is not None:
        _lower_windows(found, config, lowered)
    model = transformers_model(found, checkpoint, dtype)
    if not widen_on_use(model):
        return []
    return [transformers_logits(model, ids)[:, : config.vocab] for ids in rows]


def _rescale(found: PretrainedConfig, config: ModelConfig, *, always: bool) -> None:
    """Give transformers' `found` the rope scaling of `config`: `always`, or where config.json has none, or where the
    length of the build decides while transformers goes by that of the sequence (see RopeScaling).
    """
    scaling, rope = config.rope_scaling, getattr(found, "rope_parameters", None)
    if scaling is None or not isinstance(rope, dict):
        return
    of_full = rope.get("full_attention", rope)
    if always or scaling.extended or of_full.get("rope_type", "default") == "default":
        scaled = of_full | scaling.section(config.rope_theta, config.rotary_dim)
        found.rope_parameters = rope | {"full_attention": scaled} if "full_attention" in rope else scaled
    if always and getattr(found, ORIGINAL, None) is not None:
        setattr(found, ORIGINAL, scaling.original_max_positions)


def _lower_windows(found: PretrainedConfig, config: ModelConfig, lowered: ModelConfig) -> None:
    """Replace windows, chunks and steps of the temperature of `config` in transformers' `found` by those of `lowered`.
    One that transformers does not have stays as it is there, and is noticed.
    """
    pairs = zip(config.layer_kinds, lowered.layer_kinds, strict=True)
    changes = {old: new for a, b in pairs for old, new in ((a.window, b.window), (a.chunk, b.chunk)) if old != new}
    if config.temperature_floor != lowered.temperature_floor:
        changes[config.temperature_floor] = lowered.temperature_floor
    for name in _LIMITS:
        if getattr(found, name, None) in changes:
            setattr(found, name, changes[getattr(found, name)])


def _by_decoder(
    config: ModelConfig, canonical: Mapping[TensorId, Lazy], checkpoint: Checkpoint, rows: Sequence[Ids]
) -> list[Logits]:
    import torch

    from compiler.decoder.forward import stream_logits
    from compiler.decoder.rankfile.layout import rank_plans

    whole = rank_plans(config, 1, canonical, "F32")[0]

    def tensors(prefix: str) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(prefix): torch.from_numpy(_float32(tensor, checkpoint))
            for name, tensor in whole.tensors
            if name.startswith(prefix) and (prefix or not name.startswith("layers."))
        }

    # Padded on the right, where no token of a shorter row sees it: weights are read once.
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = own
    logits: Logits = stream_logits(
        config, lambda layer: tensors(f"layers.{layer}."), tensors(""), torch.from_numpy(ids)
    ).numpy()
    return [logits[row, : len(own)] for row, own in enumerate(rows)]


def _float32(tensor: Lazy, checkpoint: Checkpoint) -> NDArray[np.float32]:
    bits = read(tensor, lambda name: checkpoint.tensors[name].bits(tensor.source_dtype)).reshape(-1)
    out = bits
    if tensor.source_dtype != "F32":
        out = np.empty(bits.shape, np.uint32)
        cast_bits(bits, tensor.source_dtype, out, "F32")
    return out.view(np.float32).reshape(tensor.shape)
