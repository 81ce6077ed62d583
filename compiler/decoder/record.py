"""Statistics of the channels that a layer's linear layers read and write, recorded while it runs.

Weights stay in their stored dtype; products are those of `compiler.decoder.wide`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.decoder.kernels import Kernels
from compiler.decoder.mlp import gated
from compiler.decoder.moe import Biases, loop_over
from compiler.decoder.wide import product
from compiler.model.config import Activation


class Recorder:
    """Kernels for a layer with the tensors `weights`; they record maxima and sums over all calls, by weight name.

    `inputs[name]` float32 [in] or [experts, in], `outputs[name]` [out] or [experts, out]: largest magnitudes.
    `sums[name]`, `squares[name]` float64, shaped as inputs: sums of |x| and of x^2. Experts that no token chose have 0.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self._weights = weights
        # Kernels receive the tensor itself, without a name: its identity tells which layer calls.
        self._names = {id(weight): name for name, weight in weights.items()}

    @property
    def kernels(self) -> Kernels:
        # Not kept: the reference cycle would hold a layer's weights until the next garbage collection.
        return Kernels(self._linear, self._experts)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._recorded(self._names[id(weight)], None, x, weight, bias)

    def _experts(
        self, x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, down: Tensor, kind: Activation,
        biases: Biases = None,
    ) -> Tensor:  # fmt: skip
        first, second = self._names[id(gate_up)], self._names[id(down)]

        def run(tokens: Tensor, expert: int) -> Tensor:
            before, after = (None, None) if biases is None else (biases[0][expert], biases[1][expert])
            inner = gated(self._recorded(first, expert, tokens, gate_up, before), kind)
            return self._recorded(second, expert, inner, down, after)

        return loop_over(x, chosen, share, gate_up.shape[0], run)

    def _recorded(self, name: str, expert: int | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = product(x, weight if expert is None else weight[expert], bias)
        tokens, outputs = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        shape = weight.shape[:-2]
        for kept, width in ((self.inputs, tokens.shape[-1]), (self.outputs, outputs.shape[-1])):
            kept.setdefault(name, torch.zeros(*shape, width))
        for kept in (self.sums, self.squares):
            kept.setdefault(name, torch.zeros(*shape, tokens.shape[-1], dtype=torch.float64))
        if len(tokens):
            at = () if expert is None else expert
            magnitudes = tokens.abs()
            self.inputs[name][at] = torch.maximum(self.inputs[name][at], magnitudes.amax(0))
            self.outputs[name][at] = torch.maximum(self.outputs[name][at], outputs.abs().amax(0))
            self.sums[name][at] += magnitudes.sum(0)
            # vector_norm over a dimension other than the last takes ten times as long.
            self.squares[name][at] += tokens.square().sum(0)
        return y
