"""A checkpoint as a model of transformers, from what this project has read of it: no file is read a second time.

transformers gets the parsed config.json and the tensors that the index names. So it neither fails on a file that was
read here (another encoding, generation_config.json), nor reads what was left out (adapters, stray shards, code).
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import SourceError
from compiler.model.dtypes import TORCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor

_HINT = "correct config.json as the published model of this architecture has it, or upgrade transformers"
_ATTENTION = {"falcon": "sdpa"}
"""Attention by `model_type`, where `eager` is wrong: that of Falcon in transformers 5.23 adds ALiBi twice."""


def known_to_transformers(hf: Mapping[str, Any]) -> bool:
    """Whether transformers has the causal language model of a config.json, and can load it without other packages."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    if "quantization_config" in hf:  # transformers would need the package that quantized it
        return False
    own, base = (of.get(str(hf.get("model_type"))) for of in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES))
    # A model with remote code may use the type of another: the class has to agree, but for its capitals (MPT). BLOOM is
    # published with the name of the class without a head.
    named = hf.get("architectures") or ([] if "auto_map" in hf else [own])
    classes = {str(name).lower() for name in (own, base) if name}
    return own is not None and not classes.isdisjoint(str(name).lower() for name in named)


def transformers_config(hf: Mapping[str, Any]) -> PretrainedConfig:
    """Configuration of transformers for a parsed config.json. Raises SourceError with the reason of transformers."""
    from transformers import AutoConfig

    try:
        # As AutoConfig.from_pretrained, which would read the file.
        kind = type(AutoConfig.for_model(str(hf["model_type"])))
        return kind.from_dict(deepcopy(dict(hf)))
    except Exception as error:
        raise _unreadable("read config.json", error) from error


def transformers_model(config: PretrainedConfig, checkpoint: Checkpoint, dtype: str = "float32") -> PreTrainedModel:
    """The checkpoint as a model with weights in `dtype`, torch's name, ready to compute.

    Raises SourceError where transformers refuses the configuration or the tensors, or misses one.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    try:
        model, found = kind.from_pretrained(
            None,
            config=config,
            state_dict={name: _tensor(tensor) for name, tensor in checkpoint.tensors.items()},
            dtype=getattr(torch, dtype),
            attn_implementation=_ATTENTION.get(config.model_type, "eager"),
            output_loading_info=True,
        )
    except Exception as error:
        raise _unreadable("load the checkpoint", error) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise SourceError(
            f"transformers finds no tensor for {len(missing)} weights of {kind.__name__}: {', '.join(missing[:5])}",
            hint="compare the names of the checkpoint's tensors with those of the published model",
        )
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def transformers_logits(model: PreTrainedModel, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits float32 [tokens, vocab] for `ids` int64 [tokens]. Raises SourceError where config.json has the model fail.

    Without a cache, whose kinds of layers transformers takes from keys that the model itself does not read.
    """
    import torch

    try:
        with torch.no_grad():
            found = model(torch.from_numpy(ids)[None], use_cache=False, return_dict=True).logits
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if "memory" in str(error):  # the machine's fault
            raise
        raise _unreadable("compute the model of config.json", error) from error
    logits: NDArray[np.float32] = found[0].float().numpy()
    return logits


def _unreadable(what: str, error: Exception) -> SourceError:
    import transformers

    reason = " ".join(str(error).split())
    return SourceError(
        f"transformers {transformers.__version__} cannot {what}: {type(error).__name__}: {reason:.500}", hint=_HINT
    )


def _tensor(source: SourceTensor) -> Tensor:
    """A tensor over the bytes of its file, which the system reads when they are used; writes stay in this process."""
    import torch

    kind = getattr(torch, TORCH[source.dtype])
    if not source.nbytes:
        return torch.empty(source.shape, dtype=kind)
    assert source.file is not None
    flat = torch.from_numpy(np.memmap(source.file, np.uint8, "c", source.offset, (source.nbytes,)))
    # A view of wider elements needs an aligned address.
    aligned = flat if source.offset % kind.itemsize == 0 else flat.clone()
    tensor: Tensor = aligned.view(kind).view(source.shape)
    return tensor
