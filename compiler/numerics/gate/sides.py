"""Sides that the gate compares: a model computed block by block in float32.

Decoded    a checkpoint, or the files of all ranks, by the decoder
Judged     the files of all ranks, by the judge of their toolchain

Rows run together, so that weights are read once for all of them: states are [rows, tokens, hidden], padded on the
right, where no token of a shorter row sees it; of a judge [copies, rows, tokens, hidden], one copy per rank, or one
where all ranks hold the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compiler.decoder.layer import Blocks
from compiler.decoder.layer import layer as run_layer
from compiler.decoder.weights import RankWeights
from compiler.quantization.proof_levels import CPU

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
    def embed(self, ids: Ids) -> Tensor:
        """States before the first layer, of token ids [rows, tokens]."""

    def layer(self, layer: int) -> Blocks:
        """One layer, in memory as long as the result is referenced."""

    def head(self) -> Callable[[Tensor], Tensor]:
        """Function from states [1, tokens, hidden] after the last layer to logits [tokens, vocab]."""


@dataclass(frozen=True)
class Decoded:
    """Side by the decoder. `weights`: those of the checkpoint, or of every rank. `kernels`: for quantized layers.
    `wide`: whether it computes in float32; else in the dtype of the files, as what is compiled from them. `device`: of
    the computation.
    """

    config: ModelConfig
    weights: Sequence[StoredModel] | Sequence[RankWeights]
    kernels: Kernels
    wide: bool = True
    device: str = CPU

    def embed(self, ids: Ids) -> Tensor:
        import torch

        from compiler.decoder.ranks import embed_sum

        # Only the rows of tokens in use are read; a token's row is its place among them.
        used = np.unique(ids)
        tables = [one.embedding(used) for one in self.weights]
        return embed_sum(self.config, tables, torch.from_numpy(np.searchsorted(used, ids)))

    def layer(self, layer: int) -> Blocks:
        from compiler.decoder.ranks import RanksInProcess, placed

        ranks = [placed(one.layer(layer), self.device) for one in self.weights]
        return RanksInProcess(self.config, self.config.layer_kinds[layer], ranks, self._kernels())

    def head(self) -> Callable[[Tensor], Tensor]:
        from compiler.decoder.ranks import logits, placed

        ranks, kernels = [placed(one.head(), self.device) for one in self.weights], self._kernels()
        return lambda x: logits(self.config, ranks, x, kernels)[0]

    def _kernels(self) -> Kernels:
        from compiler.decoder.kernels import wide

        return wide(self.kernels) if self.wide else self.kernels


def of_files(
    config: ModelConfig, ranks: Sequence[Path], kernels: Kernels, *, wide: bool = True, device: str = CPU
) -> Decoded:
    """Side by the decoder from the files of all ranks, in rank order."""
    weights = [RankWeights(path, rank, config, wide=wide) for rank, path in enumerate(ranks)]
    return Decoded(config, weights, kernels, wide, device)


@dataclass(frozen=True)
class Judged:
    judge: Judge

    def embed(self, ids: Ids) -> Tensor:
        return _stacked(self.judge.embed(ids))

    def layer(self, layer: int) -> Blocks:
        return _JudgedLayer(self.judge, layer)

    def head(self) -> Callable[[Tensor], Tensor]:
        import torch

        return lambda x: torch.from_numpy(self.judge.head(_copies(x)))[0]


@dataclass(frozen=True)
class _JudgedLayer(Blocks):
    """Layer by the judge, which sums over ranks itself. Its toolchain has pre-norm layers only."""

    judge: Judge
    layer: int

    def attn(self, x: Tensor, _mean_squares: Tensor | None = None, /) -> Tensor:
        return _stacked(self.judge.attn(self.layer, _copies(x)))

    def mlp(self, x: Tensor, /) -> Tensor:
        return _stacked(self.judge.mlp(self.layer, _copies(x)))

    def sum(self, summand: Tensor, /) -> Tensor:
        return summand


def _copies(x: Tensor) -> list[NDArray[np.float32]]:
    """Copies of states [rows, tokens, hidden], of which there is one, or [copies, rows, tokens, hidden]."""
    return list(x.numpy()) if x.ndim == 4 else [x.numpy()]


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
    device: str = CPU,
) -> Side:
    """Side of a target's rank files `files` in `folder`: by the target's judge where it has one, else by the decoder.

    `lowered`: the model of `config` with other limits (numerics/proof.py), to compute in its place. `device`: of the
    decoder; a judge computes on the CPU.
    """
    if layout.judge is not None:
        return Judged(layout.judge(folder, config, max_memory, lowered))
    assert layout.kernels is not None  # rank files have kernels or a judge
    return of_files(lowered or config, files, layout.kernels(options), device=device)


def padded(rows: Sequence[Ids]) -> Ids:
    """Token ids [rows, longest] of rows [tokens], padded with 0 on the right."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = own
    return ids


def log_probabilities(side: Side, config: ModelConfig, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
    """Log probabilities [tokens, vocab] of the next token after each token of each row, [tokens]."""
    import torch

    with torch.no_grad():
        x = side.embed(padded(rows))
        for index in range(config.layers):
            x = run_layer(config, side.layer(index), x)
        head = side.head()
        return [
            head(x[..., row : row + 1, : len(own), :]).float().log_softmax(-1).numpy() for row, own in enumerate(rows)
        ]
