"""Second moments of the inputs of a layer's linear layers, summed while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compiler.decoder.kernels import Kernels
from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, loop_over
from compiler.decoder.wide import product
from compiler.model.config import Activation

if TYPE_CHECKING:
    from collections.abc import Mapping


class Moments:
    """Kernels for a layer with the tensors `weights`. `hessians[name]`: X^T X over all calls, by the weight's name,
    float32 [in, in] or [experts, in, in]; zero for experts that no token chose.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.hessians: dict[str, Tensor] = {}
        # Kernels receive the tensor itself, without a name: its identity tells which layer calls.
        self._names = {id(weight): name for name, weight in weights.items()}

    @property
    def kernels(self) -> Kernels:
        """Kernels that add to `hessians`."""
        # Not kept: the reference cycle would hold a layer's weights until the next garbage collection.
        return Kernels(self._linear, self._experts)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._added(self._names[id(weight)], None, x, weight, bias)

    def _experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation,
        biases: Biases = None,
    ) -> Tensor:  # fmt: skip
        first, second = self._names[id(gate_up)], self._names[id(down)]

        def run(tokens: Tensor, expert: int) -> Tensor:
            before, after = (None, None) if biases is None else (biases[0][expert], biases[1][expert])
            inner = gated(self._added(first, expert, tokens, gate_up, before), kind)
            return self._added(second, expert, inner, down, after)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    def _added(self, name: str, expert: int | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        width = weight.shape[-1]
        total = self.hessians.setdefault(name, torch.zeros(*weight.shape[:-2], width, width))
        tokens = x.reshape(-1, width)
        if len(tokens):
            own = total if expert is None else total[expert]
            own.addmm_(tokens.t(), tokens)
        return product(x, weight if expert is None else weight[expert], bias)
