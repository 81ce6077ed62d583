"""Reference logits of the source model in float32, for the rows of a proof (`proof.py`, `passages.py`).

Computed by `transformers`, an independent implementation; where it does not know the architecture, or the model in
float32 does not fit into memory, by the decoder in float32, one layer at a time. The artifact keeps them, and can then
be verified without its source.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.machine import available_memory
from compiler.model.lazy import ITEMSIZE, Lazy, read
from compiler.numerics.passages import Expected, Passage
from compiler.storage.files.cast import cast_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from compiler.model.config import ModelConfig
    from compiler.model.roles import TensorId
    from compiler.storage.checkpoints.checkpoint import Checkpoint

    Ids = NDArray[np.int64]
    Logits = NDArray[np.float32]

_LIMITS = ("sliding_window", "attention_chunk_size", "window_size")
"""Attributes of transformers' configs that limit how far attention reaches, in positions."""


def source_passages(
    config: ModelConfig,
    lowered: ModelConfig | None,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    rows: tuple[Sequence[Ids], Sequence[Ids]],
) -> tuple[str, Expected]:
    """Program ("transformers" or "decoder"), and the logits of `config` for rows[0], of `lowered` for rows[1]."""
    who, straight = reference_logits(config, tensors, checkpoint, rows[0])
    expected = Expected(Passage.of(rows[0], straight))
    if lowered is not None:
        _, found = reference_logits(config, tensors, checkpoint, rows[1], lowered)
        expected = Expected(expected.straight, Passage.of(rows[1], found))
    return who, expected


def reference_logits(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    rows: Sequence[Ids],
    lowered: ModelConfig | None = None,
) -> tuple[str, list[Logits]]:
    """Program, and its logits float32 [tokens, vocab] for each of `rows`, int64 [tokens]. `lowered`: the model with
    other limits, to compute in place of `config`.
    """
    needed = 4 * sum(prod(tensor.shape) for tensor in checkpoint.tensors.values())
    if _known_to_transformers(checkpoint.config) and needed * 1.2 < available_memory():
        return "transformers", _by_transformers(config, checkpoint, rows, lowered)
    return "decoder", _by_decoder(lowered or config, tensors, checkpoint, rows)


def _known_to_transformers(hf: Mapping[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if "quantization_config" in hf:  # transformers would need the package that quantized it
        return False
    # A model with remote code may use the type of another: the class has to agree.
    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(hf.get("model_type"))) in (hf.get("architectures") or [])


def _by_transformers(
    config: ModelConfig, checkpoint: Checkpoint, rows: Sequence[Ids], lowered: ModelConfig | None
) -> list[Logits]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint.folder,
        config=_transformers_config(config, checkpoint, lowered),
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=False,
        local_files_only=True,
    ).eval()
    with torch.no_grad():
        found: list[Logits] = [model(torch.from_numpy(ids)[None]).logits[0].float().numpy() for ids in rows]
    return [logits[:, : config.vocab] for logits in found]


def _transformers_config(config: ModelConfig, checkpoint: Checkpoint, lowered: ModelConfig | None) -> Any:
    """config.json of the source, with the user's rope scaling, and with the limits of `lowered`.

    Limits are replaced where transformers has the value of `config`: one that it does not have stays as it is there.
    """
    from transformers import AutoConfig

    # Remote code is never run.
    found = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    scaling, rope = config.rope_scaling, getattr(found, "rope_parameters", None)
    if scaling is not None and isinstance(rope, dict) and rope.get("rope_type", "default") == "default":
        rope = {**rope, "rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
        found.rope_parameters = rope
    if lowered is not None:
        _lower(found, config, lowered)
    return found


def _lower(found: Any, config: ModelConfig, lowered: ModelConfig) -> None:
    """Replace the limits of `config` in transformers' `found` by those of `lowered`."""
    pairs = zip(config.layer_kinds, lowered.layer_kinds, strict=True)
    changes = {old: new for a, b in pairs for old, new in ((a.window, b.window), (a.chunk, b.chunk)) if old != new}
    for name in _LIMITS:
        if getattr(found, name, None) in changes:
            setattr(found, name, changes[getattr(found, name)])
    if config.rope_scaling is not None and lowered.rope_scaling != config.rope_scaling:
        assert lowered.rope_scaling is not None
        key, old = "original_max_position_embeddings", config.rope_scaling.original_max_positions
        new = lowered.rope_scaling.original_max_positions
        rope = found.rope_parameters
        for one in (rope, *(part for part in rope.values() if isinstance(part, dict))):
            if one.get(key) == old:
                one[key] = new
        if getattr(found, key, None) == old:
            setattr(found, key, new)


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
    def source(name: str) -> NDArray[Any]:
        found = checkpoint.tensors[name]
        assert found.file is not None
        kind = f"u{ITEMSIZE[found.dtype]}"
        return np.memmap(found.file, kind, "r", found.offset, (prod(found.shape),))

    bits = read(tensor, source).reshape(-1)
    out = bits
    if tensor.source_dtype != "F32":
        out = np.empty(bits.shape, np.uint32)
        cast_bits(bits, tensor.source_dtype, out, "F32")
    return out.view(np.float32).reshape(tensor.shape)
