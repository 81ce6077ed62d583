"""Names and shapes of the canonical tensors that quantization adds or replaces.

Known before any weight is read, so that plans include them. `calibration/scales.py` writes exactly these:

| tensor                  | where                                                                 |
|-------------------------|-----------------------------------------------------------------------|
| {role}.{part}           | every linear layer whose weights are rounded: `quantization/parts.py` |
| {role}.columns          | linear layers with smoothed inputs; all, where kernels divide inputs  |
| {role}.prequant         | every linear layer, where kernels multiply their inputs               |
| attn.k.cache_scale      | every layer, where the cache has one scale per layer                  |
| attn.{k,v}.cached_scale | every layer, where the cache has one scale per kv head                |
| weight                  | every linear layer, where weights are rounded with feedback           |
| head.{part}             | the head, where its matrix is rounded                                 |
| weight, bias            | norms and routers that smoothing changes; biases of such layers       |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from compiler.model.config import LayerKind, ModelConfig
from compiler.model.lazy import Lazy, whole
from compiler.model.roles import TensorId, axis_sizes, linear_axes, shape_of
from compiler.quantization.parts import activation_part_names, weight_part_names
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import COLUMNS, HEADS

PREFIX = "scales/"
"""Prefix of the source name of such a tensor."""


def scale_tensors(
    config: ModelConfig, tensors: Mapping[TensorId, Lazy], scaling: Scaling | None
) -> dict[TensorId, Lazy]:
    """Float32 tensors to add to the canonical `tensors` of a checkpoint, or to replace them with."""
    if scaling is None:
        return {}
    of_layers = {
        tensor: whole(f"{PREFIX}{tensor}", _shape(tensor, config, scaling), _dtype(tensor, scaling))
        for layer, kind in enumerate(config.layer_kinds)
        for tensor in _of_layer(config, kind, layer, tensors, scaling)
    }
    parts = weight_part_names(HEADS[scaling.head]) if scaling.head else ()
    of_head = [TensorId("head", part) for part in parts]
    sizes = axis_sizes(config)
    return of_layers | {tensor: whole(f"{PREFIX}{tensor}", shape_of(tensor, sizes), "F32") for tensor in of_head}


def _dtype(tensor: TensorId, scaling: Scaling) -> str:
    """Weights that are rounded with feedback are in bfloat16, all else in float32."""
    scheme = scaling.scheme.at(tensor.layer or 0, tensor.role)
    return "BF16" if tensor.part == "weight" and scheme.rounds_with_feedback else "F32"


def _shape(tensor: TensorId, config: ModelConfig, scaling: Scaling) -> tuple[int, ...]:
    """Shape of a canonical tensor, with the groups of its scheme."""
    sizes, group = axis_sizes(config), scaling.scheme.at(tensor.layer or 0, tensor.role).group
    if group is None or not tensor.part.startswith("group_"):
        return shape_of(tensor, sizes)
    lead, rows, columns = linear_axes(tensor.role)
    return (*(sizes[axis] for axis in lead + rows), prod(sizes[axis] for axis in columns) // group)


def _of_layer(
    config: ModelConfig, kind: LayerKind, layer: int, tensors: Mapping[TensorId, Lazy], scaling: Scaling
) -> Iterator[TensorId]:
    roles = scaling.roles(config, layer)
    found = scaling.groups(config, kind) if scaling.scheme.search in COLUMNS else ()
    into = [role for group in found for role in group.into]
    for role in roles:
        scheme = scaling.scheme.at(layer, role)
        names = [*(["weight"] if scheme.rounds_with_feedback else []), *weight_part_names(scheme)]
        names += activation_part_names(scheme)
        names += ["columns"] if role in into or scaling.divides == "norms" else []
        names += ["prequant"] if scaling.divides == "inputs" else []
        yield from (TensorId(role, part, layer) for part in names)
    yield from (TensorId(role, part, layer) for role, part in scaling.cache_parts)
    changed = {group.divides for group in found} | {role for group in found for role in group.followers}
    for role in sorted({*changed, *into} - {""}):
        # A quantized weight is divided through its scale. Biases of joined layers have one dtype.
        for part in ("bias",) if role in roles else ("weight", "bias"):
            if TensorId(role, part, layer) in tensors:
                yield TensorId(role, part, layer)
