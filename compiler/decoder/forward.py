"""The whole model on one rank, in plain torch: reference for compiled segments and rank files.

Weights are those of the rank file at tp 1 (`layers.{i}.attn.qkv.weight`, ...), in any floating dtype; the computation
is in the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compiler.decoder.kernels import PLAIN, Kernels
from compiler.decoder.layer import layer
from compiler.decoder.ranks import RanksInProcess, embed_sum, logits
from compiler.model.config import ModelConfig


def forward(config: ModelConfig, weights: Mapping[str, Tensor], token_ids: Tensor, kernels: Kernels = PLAIN) -> Tensor:
    """token_ids [B, S] int64 -> logits of every position, float32 [B, S, vocab]."""
    return stream_logits(config, lambda index: layer_weights(weights, index), weights, token_ids, kernels)


def layer_weights(weights: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Tensors of one layer, by their names in it."""
    prefix = f"layers.{index}."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def stream_logits(
    config: ModelConfig,
    load_layer: Callable[[int], Mapping[str, Tensor]],
    model_weights: Mapping[str, Tensor],
    token_ids: Tensor,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """`forward` for a model larger than memory: `load_layer(i)` gives the tensors of one layer, freed after its use.

    `model_weights` has the tensors outside the layers: embed, final.norm, head (and position where learned). All
    tensors are on the device of `token_ids`.
    """
    with torch.no_grad(), token_ids.device:
        x = embed_sum(config, [model_weights], token_ids)
        for index, kind in enumerate(config.layer_kinds):
            x = layer(config, RanksInProcess(config, kind, [load_layer(index)], kernels), x)
        return logits(config, [model_weights], x, kernels)
