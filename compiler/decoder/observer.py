"""Kernels that show what the linear layers of a layer read and write, while it runs.

Weights stay in their stored dtype; products are those of `compiler.decoder.wide`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from compiler.decoder.kernels import Kernels
from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, loop_over
from compiler.decoder.wide import product
from compiler.model.config import Activation


class Observer(ABC):
    """Kernels for a layer with the tensors `weights`, by name."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        # Kernels receive the tensor itself, without a name: its identity tells which layer calls.
        self._names = {id(weight): name for name, weight in weights.items()}

    @abstractmethod
    def observe(self, name: str, expert: int | None, x: Tensor, y: Tensor) -> None:
        """Take rows x [tokens, in] and y [tokens, out] of the weight `name`, or of one of its experts."""

    @property
    def kernels(self) -> Kernels:
        # Not kept: the reference cycle would hold a layer's weights until the next garbage collection.
        return Kernels(self._linear, self._experts)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._product(self._names[id(weight)], None, x, weight, bias)

    def _experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation,
        biases: Biases = None,
    ) -> Tensor:  # fmt: skip
        first, second = self._names[id(gate_up)], self._names[id(down)]

        def run(tokens: Tensor, expert: int) -> Tensor:
            before, after = (None, None) if biases is None else (biases[0][expert], biases[1][expert])
            inner = gated(self._product(first, expert, tokens, gate_up, before), kind)
            return self._product(second, expert, inner, down, after)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    def _product(self, name: str, expert: int | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = product(x, weight if expert is None else weight[expert], bias)
        self.observe(name, expert, x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))
        return y
