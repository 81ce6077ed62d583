"""All ranks of a model in one process: summands are added up, columns concatenated, as separate ranks do.

Each rank is a mapping of the tensors of its file, by their names inside the layer or outside all layers. x [B, S, H] is
the residual stream of whole sequences; a summand is [ranks, B, S, H].

Layers and heads compute on the device that their weights are on (`placed`), and give results on the device of x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import torch
from torch import Tensor

from compiler.decoder.attention import alibi_slopes, rounded_key_bias
from compiler.decoder.decoder import attn, embed, embedded, head, mean_squares, mlp, norm, qkv
from compiler.decoder.kernels import PLAIN, Kernels
from compiler.decoder.rotary import named_tables
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.parallel import cache_shapes, head_layout

Rank = Mapping[str, Tensor]


def placed(tensors: Rank, device: str) -> dict[str, Tensor]:
    """Tensors on a device, such as cuda; those that are there already are not copied."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _beside(weights: Rank, run: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Result of `run` on the device of the first of `inputs`, computed on that of `weights`."""
    (home, *_), there = (x.device for x in inputs if x is not None), next(iter(weights.values())).device
    if there == home:
        return run(*inputs)
    with there:  # also for tensors that are created on the way
        return run(*(None if x is None else x.to(there) for x in inputs)).to(home)


def _beside_weights(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(method)
    def run(self: RanksInProcess, *inputs: Tensor | None) -> Tensor:
        return _beside(self._ranks[0], lambda *there: method(self, *there), *inputs)

    return run


class RanksInProcess:
    """One layer on all ranks (`compiler.decoder.layer.Blocks`) for whole sequences, from empty caches.

    `caches`: caches of each rank after attention (`parallel.cache_shapes`): keys and values [B, S, kv_heads, D].
    """

    def __init__(self, config: ModelConfig, kind: LayerKind, ranks: Sequence[Rank], kernels: Kernels = PLAIN) -> None:
        self._config, self._kind, self._ranks, self._kernels = config, kind, ranks, kernels
        self.caches: list[dict[str, Tensor]] = []

    @_beside_weights
    def qkv(self, x: Tensor, /) -> Tensor:
        return torch.stack([qkv(self._config, {**rank, "x": x}, self._kernels) for rank in self._ranks])

    def mean_squares(self, projected: Tensor, /) -> Tensor:
        return mean_squares(self._config, projected, len(self._ranks))

    @_beside_weights
    def attn(self, x: Tensor, squares: Tensor | None = None, /) -> Tensor:
        batch, length = x.shape[-3:-1]
        shapes = cache_shapes(self._config, head_layout(self._config.heads, self._config.kv_heads, len(self._ranks)))
        self.caches, summands = [], []
        for r, rank in enumerate(self._ranks):
            dtype = self._kernels.cached if "attn.k.cache_scale" in rank else x.dtype
            caches = {name: torch.zeros(batch, length, *shape, dtype=dtype) for name, shape in shapes.items()}
            self.caches.append(caches)
            own = {"x": x} if squares is None else {"qkv": x[r], "mean_squares": squares}
            step = step_tensors(self._config, batch, length, x.dtype, r, len(self._ranks))
            t = {**step, **rank, **own, **caches}
            summands.append(attn(self._config, self._kind, t, self._kernels))
        return torch.stack(summands)

    @_beside_weights
    def mlp(self, x: Tensor, /) -> Tensor:
        summands = [
            mlp(self._config, self._kind, {**rank, "x": x, "first": _first(r, x.dtype)}, self._kernels)
            for r, rank in enumerate(self._ranks)
        ]
        return torch.stack(summands)

    def sum(self, summand: Tensor, /) -> Tensor:
        return summand.sum(0)

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        rank = self._ranks[0]
        return _beside(rank, lambda there: norm(self._config, role, there, rank), y)


def embed_sum(config: ModelConfig, ranks: Sequence[Rank], token_ids: Tensor) -> Tensor:
    """Residual stream before the first layer: token_ids [B, S] -> [B, S, H].

    The table of each rank begins at row 0, with zeros for rows of other ranks.
    """
    batch, length = token_ids.shape
    dtype = ranks[0]["embed.weight"].dtype
    steps = [step_tensors(config, batch, length, dtype, r, len(ranks)) for r in range(len(ranks))]
    summands = [
        embed(config, {**step, **rank, "token_ids": token_ids}) for step, rank in zip(steps, ranks, strict=True)
    ]
    return embedded(config, torch.stack(summands).sum(0), ranks[0])


def logits(config: ModelConfig, ranks: Sequence[Rank], x: Tensor, kernels: Kernels = PLAIN) -> Tensor:
    """x [B, S, H] after the last layer -> float32 [B, S, vocab]."""

    def run(there: Tensor) -> Tensor:
        last = torch.arange(there.shape[1]).expand(there.shape[:2])
        columns = [head(config, {**rank, "x": there, "last": last}, kernels) for rank in ranks]
        return torch.cat(columns, -1)[..., : config.vocab]

    return _beside(ranks[0], run, x)


def step_tensors(
    config: ModelConfig, batch: int, length: int, dtype: torch.dtype, rank: int = 0, ranks: int = 1
) -> dict[str, Tensor]:
    """Inputs of segments other than weights, x and token ids, for whole sequences [batch, length] from position 0."""
    step = {
        "positions": torch.arange(length).expand(batch, length),
        "key_positions": torch.arange(length),
        "first": _first(rank, dtype),
        "vocab_offset": torch.zeros((), dtype=torch.int64),
    }
    step |= named_tables(config, length, dtype)
    if config.position == "alibi":
        slopes = torch.tensor(alibi_slopes(config.heads)).chunk(ranks)[rank]
        step["alibi.slopes"] = slopes
        step["alibi.key_bias"] = rounded_key_bias(slopes, length, config.head_dim)
    return step


def _first(rank: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor(float(rank == 0), dtype=dtype)
