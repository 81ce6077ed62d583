"""A model of transformers that computes in float32 while its weights stay as the checkpoint stores them.

Every module's own parameters are widened right before it runs, and dropped behind it: only those of one module are in
memory as float32. The stored ones are views of the checkpoint's files, which the system reads when they are used, and
forgets where memory is short. The bits are those of a model that was widened as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


def widen_on_use(model: PreTrainedModel) -> bool:
    """Add the hooks; False where the model cannot have them: it computed constants in the dtype of its weights."""
    import torch

    kinds = {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()}
    if kinds - {torch.float32}:
        return False
    for module in model.modules():
        if stored := {name: own for name, own in module.named_parameters(recurse=False) if own.dtype != torch.float32}:
            widen, restore = _hooks(stored)
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(restore)
    return True


def _hooks(stored: Mapping[str, Tensor]) -> tuple[Callable[..., None], Callable[..., None]]:
    from torch.nn import Parameter

    def widen(module: Module, _inputs: Any) -> None:
        for name, own in stored.items():
            setattr(module, name, Parameter(own.float(), requires_grad=False))

    def restore(module: Module, _inputs: Any, _output: Any) -> None:
        for name, own in stored.items():
            setattr(module, name, own)

    return widen, restore
