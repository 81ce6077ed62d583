"""Statistics of the channels that a layer's linear layers read and write, recorded while it runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compiler.decoder.observer import Observer


class Recorder(Observer):
    """Maxima and sums over all calls, by weight name.

    `inputs[name]` float32 [in] or [experts, in], `outputs[name]` [out] or [experts, out]: largest magnitudes.
    `sums[name]`, `squares[name]` float64, shaped as inputs: sums of |x| and of x^2. Experts that no token chose have 0.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}

    def observe(self, name: str, expert: int | None, x: Tensor, y: Tensor) -> None:
        shape = self.weights[name].shape[:-2]
        for kept, width in ((self.inputs, x.shape[-1]), (self.outputs, y.shape[-1])):
            kept.setdefault(name, x.new_zeros(*shape, width))
        for kept in (self.sums, self.squares):
            kept.setdefault(name, x.new_zeros(*shape, x.shape[-1], dtype=torch.float64))
        if len(x):
            at = () if expert is None else expert
            magnitudes = x.abs()
            self.inputs[name][at] = torch.maximum(self.inputs[name][at], magnitudes.amax(0))
            # Two passes over y, which is the largest of all here, take less time than a copy of its magnitudes.
            self.outputs[name][at] = torch.maximum(self.outputs[name][at], torch.maximum(y.amax(0), -y.amin(0)))
            self.sums[name][at] += magnitudes.sum(0)
            # vector_norm over a dimension other than the last takes ten times as long.
            self.squares[name][at] += x.square().sum(0)
