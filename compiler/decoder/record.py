"""A layer that is watched while it runs: how large every channel is that its linear layers read and give.

Weights stay in the dtype that they are stored in, and products are those of `compiler.decoder.wide`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.decoder.kernels import Kernels
from compiler.decoder.mlp import gated
from compiler.decoder.moe import loop_over
from compiler.decoder.wide import product
from compiler.model.config import Activation


class Recorder:
    """`kernels` for layers whose tensors are `weights`; maxima and sums over all calls, by the name of the weight.

    `inputs[name]` float32 [in] or [experts, in], `outputs[name]` [out] or [experts, out]: largest magnitudes.
    `sums[name]`, `squares[name]` float64, as inputs: of |x| and of x^2. An expert that no token chose has zeros.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self._weights = weights
        # The decoder hands over the tensors themselves: which one it is says which layer this is.
        self._names = {id(weight): name for name, weight in weights.items()}

    @property
    def kernels(self) -> Kernels:
        # Made anew: kept, it would be a circle that holds a layer's weights until the next collection.
        return Kernels(self._linear, self._experts)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._watched(self._names[id(weight)], None, x, weight, bias)

    def _experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation
    ) -> Tensor:
        first, second = self._names[id(gate_up)], self._names[id(down)]

        def run(tokens: Tensor, expert: int) -> Tensor:
            inner = gated(self._watched(first, expert, tokens, gate_up, None), kind)
            return self._watched(second, expert, inner, down, None)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    def _watched(self, name: str, expert: int | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = product(x, weight if expert is None else weight[expert], bias)
        tokens, gives = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        shape = weight.shape[:-2]
        for kept, width in ((self.inputs, tokens.shape[-1]), (self.outputs, gives.shape[-1])):
            kept.setdefault(name, torch.zeros(*shape, width))
        for kept in (self.sums, self.squares):
            kept.setdefault(name, torch.zeros(*shape, tokens.shape[-1], dtype=torch.float64))
        if len(tokens):
            at = () if expert is None else expert
            magnitudes = tokens.abs()
            self.inputs[name][at] = torch.maximum(self.inputs[name][at], magnitudes.amax(0))
            self.outputs[name][at] = torch.maximum(self.outputs[name][at], gives.abs().amax(0))
            self.sums[name][at] += magnitudes.sum(0)
            # Over a dimension that is not the last, vector_norm takes ten times as long.
            self.squares[name][at] += tokens.square().sum(0)
        return y
