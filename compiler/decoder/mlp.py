"""The dense mlp of a layer, and the activations.

gated     down(activation(gate(x)) * up(x))        gate and up are the two halves of one fused product
plain     down(activation(up(x)))

clamped_swiglu is a gated mlp in which gate is at most 7, up within -7 and 7 and one more:

    gate * sigmoid(1.702 gate) * (up + 1)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from compiler.model.config import Activation

CLAMP, SIGMOID_FACTOR = 7.0, 1.702
"""Limit of `clamped_swiglu`, and the factor in its sigmoid (gpt-oss)."""

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def gated(gate_up: Tensor, kind: Activation) -> Tensor:
    """Input of `down` [..., F] from the fused product [..., 2 F], gate first."""
    gate, up = gate_up.chunk(2, -1)
    if kind == "clamped_swiglu":
        gate, up = gate.clamp(max=CLAMP), up.clamp(-CLAMP, CLAMP)
        return gate * (gate * SIGMOID_FACTOR).sigmoid() * (up + 1)
    return ACTIVATIONS[kind](gate) * up
