"""Reference logits of the source model in float32, for the token ids that an artifact is verified on.

Computed by `transformers`, an independent implementation; where it does not know the architecture, or the model in
float32 does not fit into memory, by the decoder in float32, one layer at a time. Kept in the artifact, which can then
be verified without its source, as reference.safetensors: `token_ids` int64 [tokens], `logits` float32 [tokens, vocab].
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import ArtifactError
from compiler.machine import available_memory
from compiler.model.lazy import Lazy, read
from compiler.numerics.foreign import known_to_transformers, transformers_config, transformers_model
from compiler.storage.files.cast import cast_bits
from compiler.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from compiler.model.config import ModelConfig
    from compiler.model.roles import TensorId
    from compiler.storage.checkpoints.checkpoint import Checkpoint

REFERENCE = "reference.safetensors"
TOKENS = 48
"""Number of positions compared."""
TEXT = (
    "The harbour was quiet when the ferry came in. Maria counted 17 crates on the pier, signed the paper, "
    "and asked whether the letter from Zürich had arrived. Nobody knew; the clerk shrugged and said: come "
    "back at half past ten."
)
"""Written for this project; letters, digits, punctuation and one character outside ASCII."""


def token_ids(tokenizer: Path | None, config_vocab: int, positions: int) -> NDArray[np.int64]:
    """TEXT by the tokenizer in the folder `tokenizer`, else seeded random ids below `config_vocab`: int64 [tokens].

    At most TOKENS, and fewer than `positions`. Raises TokenizerError where the tokenizer cannot be read.
    """
    count = min(TOKENS, positions - 1)
    found = load_tokenizer(tokenizer) if tokenizer is not None else None
    if found is not None:
        ids = found.encode(TEXT)
        if len(ids) >= count and max(ids) < config_vocab:
            return np.array(ids[:count], np.int64)
    return np.random.default_rng(0).integers(0, config_vocab, count, np.int64)


def reference_logits(
    config: ModelConfig, tensors: Mapping[TensorId, Lazy], checkpoint: Checkpoint, ids: NDArray[np.int64]
) -> tuple[str, NDArray[np.float32]]:
    """Program ("transformers" or "decoder"), and its logits float32 [tokens, vocab] for `ids` int64 [tokens]."""
    needed = 4 * sum(prod(tensor.shape) for tensor in checkpoint.tensors.values())
    if known_to_transformers(checkpoint.config) and needed * 1.2 < available_memory():
        return "transformers", _by_transformers(config, checkpoint, ids)
    return "decoder", _by_decoder(config, tensors, checkpoint, ids)


def write_reference(path: Path, ids: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
    """Write `token_ids` int64 [tokens] and `logits` float32 [tokens, vocab] as the safetensors file `path`."""
    from safetensors.numpy import save_file

    save_file({"token_ids": ids, "logits": np.ascontiguousarray(logits, np.float32)}, path)


def read_reference(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Inverse of `write_reference`. Raises ArtifactError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return tensors["token_ids"], tensors["logits"]
    except (OSError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} has no reference logits: {error}", hint="copy the artifact again, or build it again"
        ) from None


def _by_transformers(model_config: ModelConfig, checkpoint: Checkpoint, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    import torch

    # config.json is the source's, except for the user's rope scaling.
    config = transformers_config(checkpoint.config)
    scaling = model_config.rope_scaling
    found = getattr(config, "rope_parameters", None)
    of_full = found.get("full_attention", found) if isinstance(found, dict) else {}
    requested = of_full.get("rope_type", "default") == "default"
    if scaling is not None and isinstance(found, dict) and (requested or scaling.extended):
        # The length of the build decides where transformers goes by that of the sequence (see RopeScaling).
        scaled = of_full | scaling.section(model_config.rope_theta, model_config.rotary_dim)
        config.rope_parameters = found | {"full_attention": scaled} if "full_attention" in found else scaled
    model = transformers_model(config, checkpoint)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(ids)[None]).logits[0].float().numpy()
    return logits[:, : model_config.vocab]


def _by_decoder(
    config: ModelConfig, canonical: Mapping[TensorId, Lazy], checkpoint: Checkpoint, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
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

    logits: NDArray[np.float32] = stream_logits(
        config, lambda layer: tensors(f"layers.{layer}."), tensors(""), torch.from_numpy(ids)[None]
    )[0].numpy()
    return logits


def _float32(tensor: Lazy, checkpoint: Checkpoint) -> NDArray[np.float32]:
    bits = read(tensor, lambda name: checkpoint.tensors[name].bits(tensor.source_dtype)).reshape(-1)
    out = bits
    if tensor.source_dtype != "F32":
        out = np.empty(bits.shape, np.uint32)
        cast_bits(bits, tensor.source_dtype, out, "F32")
    return out.view(np.float32).reshape(tensor.shape)
