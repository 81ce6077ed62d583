"""What the gate compares: a model as somebody computes it, a part of a layer at a time, in float32.

Decoded    a checkpoint, or the files of all ranks, by the names of the decoder and with its mathematics
Judged     the files of all ranks, by the judge of their toolchain

States are [copies, tokens, hidden] of one sample: what the ranks hold, once where all hold the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from compiler.decoder.weights import RankFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.decoder.kernels import Kernels
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import Activation, ModelConfig
    from compiler.targets.values import Judge

    Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Of one layer: what each adds to the states that it is given. In parallel both are given those of the layer."""

    attn: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


class Side(Protocol):
    def embed(self, samples: Sequence[Ids]) -> list[Tensor]:
        """The states of each sample [tokens] before the first layer."""

    def layer(self, layer: int) -> Parts:
        """In memory, where it is held at all, as long as the result."""

    def head(self) -> Callable[[Tensor], Tensor]:
        """From states behind the last layer to log probabilities [tokens, vocab] of what follows each."""


@dataclass(frozen=True)
class Decoded:
    """`weights`: of the checkpoint alone, or of every rank. `kernels`: how quantised layers are computed."""

    config: ModelConfig
    weights: Sequence[StoredModel] | Sequence[RankFile]
    kernels: Kernels

    def embed(self, samples: Sequence[Ids]) -> list[Tensor]:
        import torch

        from compiler.decoder.ranks import embed_sum

        # A token is named by its place among those in use: only their rows of the embeddings are read.
        used = np.unique(np.concatenate(samples))
        tables = [one.embedding(used) for one in self.weights]
        return [embed_sum(self.config, tables, torch.from_numpy(np.searchsorted(used, ids))[None]) for ids in samples]

    def layer(self, layer: int) -> Parts:
        from compiler.decoder.ranks import attn_sum, mlp_sum

        config, kind, kernels = self.config, self.config.layer_kinds[layer], wide(self.kernels)
        ranks = [one.layer(layer) for one in self.weights]
        return Parts(
            lambda x: attn_sum(config, kind, ranks, x, kernels), lambda x: mlp_sum(config, kind, ranks, x, kernels)
        )

    def head(self) -> Callable[[Tensor], Tensor]:
        from compiler.decoder.ranks import log_probabilities

        ranks, kernels = [one.head() for one in self.weights], wide(self.kernels)
        return lambda x: log_probabilities(self.config, ranks, x, kernels)


def of_files(config: ModelConfig, ranks: Sequence[Path], kernels: Kernels) -> Decoded:
    """The files of all ranks, in order."""
    return Decoded(config, [RankFile(path, rank, config) for rank, path in enumerate(ranks)], kernels)


@dataclass(frozen=True)
class Judged:
    judge: Judge

    def embed(self, samples: Sequence[Ids]) -> list[Tensor]:
        import torch

        return [torch.from_numpy(np.stack(self.judge.embed(ids))) for ids in samples]

    def layer(self, layer: int) -> Parts:
        import torch

        judge = self.judge
        return Parts(
            lambda x: torch.from_numpy(np.stack(judge.attn(layer, list(x.numpy())))),
            lambda x: torch.from_numpy(np.stack(judge.mlp(layer, list(x.numpy())))),
        )

    def head(self) -> Callable[[Tensor], Tensor]:
        import torch

        return lambda x: torch.from_numpy(self.judge.head(list(x.numpy()))).log_softmax(-1)


def log_probabilities(side: Side, config: ModelConfig, ids: Ids) -> NDArray[np.float32]:
    """[tokens, vocab] of what follows each of `ids` [tokens]."""
    import torch

    with torch.no_grad():
        (x,) = side.embed([ids])
        for layer in range(config.layers):
            parts = side.layer(layer)
            a = parts.attn(x)
            x = x + a + parts.mlp(x if config.parallel_residual else x + a)
        found: NDArray[np.float32] = side.head()(x).numpy()
    return found


def wide(kernels: Kernels) -> Kernels:
    """The same with the products of `compiler.decoder.wide` where weights are floating-point."""
    from compiler.decoder.mlp import gated
    from compiler.decoder.moe import loop_over
    from compiler.decoder.wide import product

    def experts(x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation) -> Tensor:
        def run(tokens: Tensor, e: int) -> Tensor:
            return product(gated(product(tokens, gate_up[e], None), kind), down[e], None)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    return replace(kernels, linear=product, experts=experts)
