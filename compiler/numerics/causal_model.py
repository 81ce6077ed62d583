"""The causal language model of a checkpoint in transformers, in float32. Code of a checkpoint is never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor

_TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""torch's names of the dtypes in safetensors headers."""


def transformers_config(checkpoint: Checkpoint) -> Any:
    """Configuration of a checkpoint as transformers reads it: its folder's, or that of its text part."""
    from transformers import AutoConfig

    if checkpoint.whole is None:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    own = {key: value for key, value in checkpoint.config.items() if key != "model_type"}
    return AutoConfig.for_model(checkpoint.config["model_type"], **own)


def transformers_model(checkpoint: Checkpoint, config: Any) -> Any:
    """Model of a checkpoint with the configuration `config`. Of a text part, the causal model with its tensors: the
    folder has the whole model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    how = {"config": config, "dtype": torch.float32, "attn_implementation": "eager"}
    if checkpoint.whole is None:
        return AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, **how, trust_remote_code=False, local_files_only=True
        ).eval()
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    state = {name: _tensor(found) for name, found in checkpoint.tensors.items()}
    return kind.from_pretrained(None, state_dict=state, **how).eval()


def _tensor(found: SourceTensor) -> Tensor:
    import torch

    assert found.file is not None
    data = np.fromfile(found.file, np.uint8, found.nbytes, offset=found.offset)
    return torch.from_numpy(data).view(getattr(torch, _TORCH[found.dtype])).reshape(found.shape)
