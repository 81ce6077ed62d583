"""The dense mlp of a layer, and the activations.

gated     down(activation(gate(x)) * up(x))        gate and up are the two halves of one fused product
plain     down(activation(up(x)))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from compiler.model.config import Activation

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def gated(gate_up: Tensor, kind: Activation) -> Tensor:
    """Input of `down` [..., F] from the fused product [..., 2 F], gate first."""
    gate, up = gate_up.chunk(2, -1)
    return ACTIVATIONS[kind](gate) * up
