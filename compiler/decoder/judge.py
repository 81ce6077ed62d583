"""Judge of rank files whose weights can be read under the decoder's names (`targets.values.Judge`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from compiler.decoder.kernels import PLAIN, Kernels, wide
from compiler.decoder.layer import layer as run_layer
from compiler.decoder.ranks import RanksInProcess, embed_sum, logits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.model.config import ModelConfig

    States = Sequence[NDArray[np.float32]]


class DecoderWeights(Protocol):
    """Weights of one rank, or of the whole model, under the decoder's names. Methods raise ArtifactError."""

    def embedding(self, used: NDArray[np.int64]) -> Mapping[str, Tensor]:
        """Rows `used` of the embedding in this order, its norm and the learned positions if any; float32."""

    def layer(self, layer: int) -> Mapping[str, Tensor]:
        """Tensors of one layer, by their names in it."""

    def head(self) -> Mapping[str, Tensor]:
        """Weights of the head segment."""

    def check(self) -> None:
        """Check that the files hold the model's tensors and no others."""


class DecoderJudge:
    """Forward pass by the decoder. All ranks have equal sums: states are one array."""

    def __init__(self, config: ModelConfig, ranks: Sequence[DecoderWeights], kernels: Kernels = PLAIN) -> None:
        self._config, self._ranks, self._kernels = config, ranks, wide(kernels)

    def embed(self, token_ids: NDArray[np.int64], /) -> list[NDArray[np.float32]]:
        """States [tokens, hidden] before the first layer, or [rows, tokens, hidden] of several rows."""
        return [self._embed(token_ids).reshape(*token_ids.shape, -1).numpy()]

    def attn(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """Output of attention."""
        blocks = self._layer(layer)
        return [blocks.sum(blocks.attn(_tensor(x))).reshape(x[0].shape).numpy()]

    def mlp(self, layer: int, x: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        """Output of the mlp."""
        blocks = self._layer(layer)
        return [blocks.sum(blocks.mlp(_tensor(x))).reshape(x[0].shape).numpy()]

    def head(self, x: list[NDArray[np.float32]], /) -> NDArray[np.float32]:
        """Logits [..., vocab]."""
        found: NDArray[np.float32] = self._logits(_tensor(x)).reshape(*x[0].shape[:-1], -1).numpy()
        return found

    def logits(self, token_ids: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Logits [tokens, vocab] of token ids [tokens]. Raises ArtifactError for tensors that nothing reads."""
        import torch

        for one in self._ranks:
            one.check()
        with torch.no_grad():
            x = self._embed(token_ids)
            for index in range(self._config.layers):
                x = run_layer(self._config, self._layer(index), x)
            found: NDArray[np.float32] = self._logits(x)[0].numpy()
        return found

    def _embed(self, token_ids: NDArray[np.int64]) -> Tensor:
        import numpy as np
        import torch

        used = np.unique(token_ids)
        places = torch.from_numpy(np.searchsorted(used, np.atleast_2d(token_ids)))
        return embed_sum(self._config, [one.embedding(used) for one in self._ranks], places)

    def _layer(self, layer: int) -> RanksInProcess:
        ranks = [one.layer(layer) for one in self._ranks]
        return RanksInProcess(self._config, self._config.layer_kinds[layer], ranks, self._kernels)

    def _logits(self, x: Tensor) -> Tensor:
        return logits(self._config, [one.head() for one in self._ranks], x, self._kernels)


def _tensor(x: States) -> Tensor:
    import torch

    return torch.from_numpy(x[0].reshape(-1, *x[0].shape[-2:]))
