"""Quantized linear layers among the tensors of the decoder, which joins some of them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from compiler.decoder.rankfile.layout import FUSED
from compiler.model.roles import axis_sizes, linear_axes
from compiler.quantization.groups import quantized_roles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.model.config import LayerKind, ModelConfig


def linear_rows(config: ModelConfig, kind: LayerKind) -> Iterator[tuple[str, str, slice]]:
    """Linear layers: name of the decoder's tensor that contains it, role, and rows in that tensor."""
    sizes, roles = axis_sizes(config), quantized_roles(config, kind)
    fused = {name: parts for name, parts in FUSED.items() if set(parts) <= set(roles)}
    alone = {role: (role,) for role in roles if not any(role in parts for parts in fused.values())}
    for name, parts in (fused | alone).items():
        begin = 0
        for role in parts:
            count = prod(sizes[axis] for axis in linear_axes(role)[1])
            yield name, role, slice(begin, begin + count)
            begin += count
