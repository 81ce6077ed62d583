"""A layer that is watched while it runs: the largest magnitude of every channel that its linear layers read and give.

Weights stay in the dtype that they are stored in. A product widens a block of their rows to float32 at a time, always
the same blocks, so that memory is that of the stored layer and the bits do not depend on how much there is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.kernels import Kernels
from compiler.decoder.mlp import gated
from compiler.decoder.moe import loop_over
from compiler.ir.config import Activation

BLOCK = 16 << 20
"""Bytes of float32 that a block of rows is widened to."""


class Recorder:
    """`kernels` for layers whose tensors are `weights`; maxima over all their calls, by the name of the weight.

    `inputs[name]` float32 [in] or [experts, in], `outputs[name]` [out] or [experts, out]. An expert that no token chose
    has zeros.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.kernels = Kernels(self._linear, self._experts)
        self._weights = weights
        # The decoder hands over the tensors themselves: which one it is says which layer this is.
        self._names = {id(weight): name for name, weight in weights.items()}

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
        for maxima, values in ((self.inputs, x), (self.outputs, y)):
            width = values.shape[-1]
            kept = maxima.setdefault(name, torch.zeros(*weight.shape[:-2], width))
            if values.numel():
                place = kept if expert is None else kept[expert]
                torch.maximum(place, values.reshape(-1, width).abs().amax(0), out=place)
        return y


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x float32 [..., in], weight [out, in] of any floating dtype, bias float32 [out] -> float32 [..., out]."""
    rows = max(BLOCK // (4 * weight.shape[1]), 1)
    parts = weight.split(rows)
    biases = bias.split(rows) if bias is not None else (None,) * len(parts)
    return torch.cat([F.linear(x, part.float(), b) for part, b in zip(parts, biases, strict=True)], -1)
