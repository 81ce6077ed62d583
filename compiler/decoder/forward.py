"""The whole model on one rank, in plain torch: what compiled segments and rank files are judged by.

Weights are those of the rank file at tp 1 (`layers.{i}.attn.qkv.weight`, ...), in any floating dtype; the computation
is in the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compiler.decoder.attention import alibi_slopes
from compiler.decoder.decoder import attn, embed, head, mlp
from compiler.decoder.kernels import PLAIN, Kernels
from compiler.decoder.rotary import tables
from compiler.model.config import LayerKind, ModelConfig


def forward(config: ModelConfig, weights: Mapping[str, Tensor], token_ids: Tensor, kernels: Kernels = PLAIN) -> Tensor:
    """token_ids [B, S] int64 -> logits of every position, float32 [B, S, vocab]."""
    return stream_logits(config, lambda layer: layer_weights(weights, layer), weights, token_ids, kernels)


def layer_weights(weights: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The tensors of one layer, by their names inside the layer."""
    prefix = f"layers.{layer}."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def stream_logits(
    config: ModelConfig,
    load_layer: Callable[[int], Mapping[str, Tensor]],
    model_weights: Mapping[str, Tensor],
    token_ids: Tensor,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """`forward` for a model larger than memory: `load_layer(i)` gives the tensors of one layer, which is then let go.

    `model_weights` has the tensors outside the layers: embed, final.norm, head (and position where learned). All
    tensors are on the device of `token_ids`.
    """
    with torch.no_grad(), token_ids.device:
        return _stream(config, load_layer, model_weights, token_ids, kernels)


def _stream(
    config: ModelConfig,
    load_layer: Callable[[int], Mapping[str, Tensor]],
    model_weights: Mapping[str, Tensor],
    token_ids: Tensor,
    kernels: Kernels,
) -> Tensor:
    step = step_tensors(config, token_ids, model_weights["embed.weight"].dtype)
    x = embed(config, {**step, **model_weights})
    for layer, kind in enumerate(config.layer_kinds):
        x = run_layer(config, kind, {**step, **load_layer(layer), "x": x}, kernels)
    return head(config, {**step, **model_weights, "x": x}, kernels)[..., : config.vocab]


def step_tensors(config: ModelConfig, token_ids: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the segments read besides weights and x, for whole sequences token_ids [B, S] from position 0 on."""
    batch, length = token_ids.shape
    step = {
        "token_ids": token_ids,
        "positions": torch.arange(length).expand(batch, length),
        "key_positions": torch.arange(length),
        "last": torch.arange(length).expand(batch, length),
        "first": torch.ones((), dtype=dtype),
        "vocab_offset": torch.zeros((), dtype=torch.int64),
    }
    if config.position == "rope":
        step["rope.cos"], step["rope.sin"] = tables(config, length, dtype)
    if config.position == "alibi":
        step["alibi.slopes"] = torch.tensor(alibi_slopes(config.heads))
    return step


def run_layer(config: ModelConfig, kind: LayerKind, t: dict[str, Tensor], kernels: Kernels = PLAIN) -> Tensor:
    """x after one layer, which attends to nothing but the sequence itself. `t`: `step_tensors`, weights, and x."""
    x = t["x"]
    cache = (*x.shape[:2], config.kv_heads, config.head_dim)
    t["cache_k"], t["cache_v"] = (torch.zeros(cache, dtype=x.dtype) for _ in range(2))
    partial = attn(config, kind.window, t, kernels)
    if config.parallel_residual:
        return x + (partial + mlp(config, kind, t, kernels))
    x = x + partial
    return x + mlp(config, kind, {**t, "x": x}, kernels)
