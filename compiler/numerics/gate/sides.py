"""Sides that the gate compares: a model computed block by block in float32.

Decoded    a checkpoint, or the files of all ranks, by the decoder
Judged     the files of all ranks, by the judge of their toolchain

States of one sample are [copies, tokens, hidden]: one copy per rank, or one where all ranks hold the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compiler.decoder.layer import Blocks
from compiler.decoder.layer import layer as run_layer
from compiler.decoder.weights import RankWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.decoder.kernels import Kernels
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import ModelConfig
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import RankLayout
    from compiler.targets.values import Judge

    Ids = NDArray[np.int64]


class Side(Protocol):
    def embed(self, samples: Sequence[Ids]) -> list[Tensor]:
        """States of each sample [tokens] before the first layer."""

    def layer(self, layer: int) -> Blocks:
        """One layer, in memory as long as the result is referenced."""

    def head(self) -> Callable[[Tensor], Tensor]:
        """Function from states after the last layer to log probabilities [tokens, vocab] of the next token."""


@dataclass(frozen=True)
class Decoded:
    """Side by the decoder. `weights`: those of the checkpoint, or of every rank. `kernels`: for quantized layers."""

    config: ModelConfig
    weights: Sequence[StoredModel] | Sequence[RankWeights]
    kernels: Kernels

    def embed(self, samples: Sequence[Ids]) -> list[Tensor]:
        import torch

        from compiler.decoder.ranks import embed_sum

        # Only the rows of tokens in use are read; a token's row is its place among them.
        used = np.unique(np.concatenate(samples))
        tables = [one.embedding(used) for one in self.weights]
        return [embed_sum(self.config, tables, torch.from_numpy(np.searchsorted(used, ids))[None]) for ids in samples]

    def layer(self, layer: int) -> Blocks:
        from compiler.decoder.kernels import wide
        from compiler.decoder.ranks import RanksInProcess

        ranks = [one.layer(layer) for one in self.weights]
        return RanksInProcess(self.config, self.config.layer_kinds[layer], ranks, wide(self.kernels))

    def head(self) -> Callable[[Tensor], Tensor]:
        from compiler.decoder.kernels import wide
        from compiler.decoder.ranks import logits

        ranks, kernels = [one.head() for one in self.weights], wide(self.kernels)
        return lambda x: logits(self.config, ranks, x, kernels)[0].log_softmax(-1)


def of_files(config: ModelConfig, ranks: Sequence[Path], kernels: Kernels) -> Decoded:
    """Side by the decoder from the files of all ranks, in rank order."""
    return Decoded(config, [RankWeights(path, rank, config) for rank, path in enumerate(ranks)], kernels)


@dataclass(frozen=True)
class Judged:
    judge: Judge

    def embed(self, samples: Sequence[Ids]) -> list[Tensor]:
        return [_stacked(self.judge.embed(ids)) for ids in samples]

    def layer(self, layer: int) -> Blocks:
        return _JudgedLayer(self.judge, layer)

    def head(self) -> Callable[[Tensor], Tensor]:
        import torch

        return lambda x: torch.from_numpy(self.judge.head(list(x.numpy()))).log_softmax(-1)


@dataclass(frozen=True)
class _JudgedLayer(Blocks):
    """Layer by the judge, which sums over ranks itself. Its toolchain has pre-norm layers only."""

    judge: Judge
    layer: int

    def attn(self, x: Tensor, _mean_squares: Tensor | None = None, /) -> Tensor:
        return _stacked(self.judge.attn(self.layer, list(x.numpy())))

    def mlp(self, x: Tensor, /) -> Tensor:
        return _stacked(self.judge.mlp(self.layer, list(x.numpy())))

    def sum(self, summand: Tensor, /) -> Tensor:
        return summand


def _stacked(states: Sequence[NDArray[np.float32]]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(states))


def side_of(
    layout: RankLayout[Any],
    config: ModelConfig,
    options: TargetOptions,
    folder: Path,
    files: Sequence[Path],
    max_memory: int,
    lowered: ModelConfig | None = None,
) -> Side:
    """Side of a target's rank files `files` in `folder`: by the target's judge where it has one, else by the decoder.

    `lowered`: the model of `config` with other limits (numerics/proof.py), to compute in its place.
    """
    if layout.judge is not None:
        return Judged(layout.judge(folder, config, max_memory, lowered))
    assert layout.kernels is not None  # rank files have kernels or a judge
    return of_files(lowered or config, files, layout.kernels(options))


def log_probabilities(side: Side, config: ModelConfig, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
    """Log probabilities [tokens, vocab] of the next token after each token of each row, [tokens]."""
    import torch

    with torch.no_grad():
        xs = side.embed(rows)
        for index in range(config.layers):
            layer = side.layer(index)
            xs = [run_layer(config, layer, x) for x in xs]
        head = side.head()
        return [head(x).numpy() for x in xs]
