"""Memory traffic of decode steps."""

from __future__ import annotations

from math import prod

from compiler.decoder.products import Products
from compiler.decoder.rankfile.quantized import input_scale_of, scale_of, stored_weight
from compiler.decoder.segments import SegmentSpec, layer_segments, specs, weight_shapes
from compiler.model.config import ModelConfig
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.model.limits import Limits
from compiler.quantization.schemes import FLOAT

_EXPERTS = ("moe.gate_up.", "moe.up.", "moe.down.")
"""Weights with one slice for each expert."""


def step_bytes(config: ModelConfig, tp: int, dtype: str, products: Products = FLOAT, head: str = FLOAT) -> int:
    """Bytes of weights that all ranks together read to decode one token of one row; the KV cache is not counted.

    A token reads the experts that it is routed to. `dtype`: torch's name; `products`: see `compiler.decoder.products`;
    `head`: product of the head.
    """
    found = {spec.segment: _segment_bytes(spec) for spec in specs(config, tp, dtype, Limits(1, 1), products, head=head)}
    names = [name for layer in layer_segments(config, products) for name in layer]
    return tp * (found["head"] + sum(found[name] for name in names))


def _segment_bytes(spec: SegmentSpec) -> int:
    """Bytes of weights that the segment reads on one rank for one token."""
    shapes, config = weight_shapes(spec), spec.config
    total = 0.0
    for name, shape in shapes.items():
        used = config.experts_per_token / config.experts if name.startswith(_EXPERTS) else 1
        total += used * prod(shape) * _itemsize(name, spec, shapes)
    return round(total)


def _itemsize(name: str, spec: SegmentSpec, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes of an element of a weight or of its scales."""
    if scale_of(name) in shapes and name.endswith("weight"):
        return ITEMSIZE[stored_weight(spec.products).dtype]
    is_scale = name.endswith((scale_of(""), input_scale_of("")))
    return ITEMSIZE["F32" if is_scale else DTYPES[spec.dtype]]
