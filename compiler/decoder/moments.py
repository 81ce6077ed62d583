"""Second moments of the inputs of a layer's linear layers, summed while it runs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compiler.decoder.observer import Observer


class Moments(Observer):
    """`hessians[name]`: X^T X over all calls, by the weight's name, float32 [in, in] or [experts, in, in]; zero for
    experts that no token chose.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.hessians: dict[str, Tensor] = {}

    def observe(self, name: str, expert: int | None, x: Tensor, y: Tensor) -> None:  # noqa: ARG002 (of Observer)
        if name not in self.hessians:
            self.hessians[name] = x.new_zeros(*self.weights[name].shape[:-2], x.shape[-1], x.shape[-1])
        if len(x):
            total = self.hessians[name]
            (total if expert is None else total[expert]).addmm_(x.t(), x)
