"""The canonical tensors that quantisation adds to a model's, or puts in their place: which, and of what shape.

Known before any weight is read, so that plans count them. `stages/scale.py` writes exactly these, under these names:

| tensor                | where                                                            |
|-----------------------|------------------------------------------------------------------|
| {role}.steps, .scale  | every linear layer with int8 weights                             |
| {role}.columns        | linear layers whose input is smoothed                            |
| weight, bias          | of norms and routers that smoothing changes; biases beside them  |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from compiler.ir.config import LayerKind, ModelConfig
from compiler.ir.lazy import Lazy, whole
from compiler.ir.roles import TensorId, axis_sizes, shape_of
from compiler.quant.asked import Quant
from compiler.quant.groups import Smooth, explicit, folded, groups, quantised_roles

PREFIX = "scales/"
"""Of the source that such a tensor comes from."""
Smoothing = Literal["folded", "explicit"]
"""`folded`: what nothing in front can take is not smoothed. `explicit`: kernels divide the inputs of `o` and `down`."""


def planned(
    config: ModelConfig, tensors: Mapping[TensorId, Lazy], quant: Quant, smoothing: Smoothing
) -> dict[TensorId, Lazy]:
    """What will stand beside (or in the place of) the canonical `tensors` of a checkpoint; float32."""
    if quant.scheme is None or quant.scheme.weights != "int8":
        return {}
    sizes = axis_sizes(config)
    return {
        tensor: whole(f"{PREFIX}{tensor}", shape_of(tensor, sizes), "F32")
        for layer, kind in enumerate(config.layer_kinds)
        for tensor in _of_layer(
            config, kind, layer, tensors, smoothed(config, kind, smoothing) if quant.smooths else ()
        )
    }


def smoothed(config: ModelConfig, kind: LayerKind, smoothing: Smoothing) -> tuple[Smooth, ...]:
    """The groups of one layer that have an s."""
    return {"folded": folded, "explicit": explicit}[smoothing](groups(config, kind))


def _of_layer(
    config: ModelConfig, kind: LayerKind, layer: int, tensors: Mapping[TensorId, Lazy], found: tuple[Smooth, ...]
) -> Iterator[TensorId]:
    roles = quantised_roles(config, kind)
    into = [role for group in found for role in group.into]
    for role in roles:
        yield from (TensorId(role, part, layer) for part in ("steps", "scale"))
        if role in into:
            yield TensorId(role, "columns", layer)
    changed = {group.divides for group in found} | {role for group in found for role in group.followers}
    for role in sorted({*changed, *into} - {""}):
        # A quantised weight is divided by way of its scale. Biases of layers that are joined have one dtype.
        for part in ("bias",) if role in roles else ("weight", "bias"):
            if TensorId(role, part, layer) in tensors:
                yield TensorId(role, part, layer)
