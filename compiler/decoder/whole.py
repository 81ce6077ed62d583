"""A layer of a model on one rank as one function of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.decoder.decoder import attn, mean_squares, mlp, norm, qkv
from compiler.decoder.kernels import PLAIN, Kernels
from compiler.decoder.layer import layer

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.decoder.decoder import Tensors
    from compiler.model.config import LayerKind, ModelConfig


class _OneRank:
    """One layer on the only rank (`compiler.decoder.layer.Blocks`), over the caches in `t`."""

    def __init__(self, config: ModelConfig, kind: LayerKind, t: Tensors, kernels: Kernels) -> None:
        self._config, self._kind, self._t, self._kernels = config, kind, t, kernels

    def qkv(self, x: Tensor, /) -> Tensor:
        return qkv(self._config, {**self._t, "x": x}, self._kernels)

    def mean_squares(self, projected: Tensor, /) -> Tensor:
        return mean_squares(self._config, projected, 1)

    def attn(self, x: Tensor, squares: Tensor | None = None, /) -> Tensor:
        own = {"x": x} if squares is None else {"qkv": x, "mean_squares": squares}
        return attn(self._config, self._kind, {**self._t, **own}, self._kernels)

    def mlp(self, x: Tensor, /) -> Tensor:
        return mlp(self._config, self._kind, {**self._t, "x": x}, self._kernels)

    def sum(self, summand: Tensor, /) -> Tensor:
        return summand

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        return norm(self._config, role, y, self._t)


def whole_layer(config: ModelConfig, kind: LayerKind, t: Tensors, kernels: Kernels = PLAIN) -> Tensor:
    """Residual stream after the layer, [B, S, H]. `t`: inputs of `decoder.attn` and `decoder.mlp`, and the norms after
    them; the caches are written in place.
    """
    return layer(config, _OneRank(config, kind, t, kernels), t["x"])
