"""Quantised linear layers in the rank files: integers, and beside them what one of each row or group is worth.

| file tensor              | dtype   | shape on a rank                 | from                                       |
|--------------------------|---------|---------------------------------|--------------------------------------------|
| layers.i.attn.qkv.weight | int8    | [out, in], as in floating point | weight, columns, steps of attn.q .k .v     |
| layers.i.attn.qkv.scale  | float32 | [out]                           | scale of attn.q attn.k attn.v              |
| layers.i.attn.qkv.weight | uint8   | [out, in / 2], of int4          | weight, columns, group_steps of attn.q ... |
| layers.i.attn.qkv.scale  | float32 | [out, in / 128]                 | group_scale of attn.q attn.k attn.v        |

and so for every other linear layer whose canonical tensors have `steps` or `group_steps`; all others are as `layout.py`
has them. A byte holds column 2 j in its lower half, column 2 j + 1 in its upper: products read the file as it lies.
What belongs to rows, columns and groups is split, copied and joined as these themselves: a row-parallel layer has the
scales of whole rows on every rank, so that sharding and quantising commute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.ir.config import ModelConfig
from compiler.ir.layout import Layout, join_scales
from compiler.ir.lazy import Format, Lazy, Packing, Quantise, RankPlan
from compiler.ir.parallel import spread
from compiler.ir.roles import TensorId


@dataclass(frozen=True)
class _Rounds:
    """What a part `steps` of a weight says about the file tensors."""

    format: Format
    dtype: str
    scale: str
    packing: Packing | None = None


_ROUNDS = {
    "steps": _Rounds("int8", "I8", "scale"),
    "group_steps": _Rounds("int4", "U8", "group_scale", Packing(-1, 1)),
}


def quantise(
    plans: Sequence[RankPlan],
    layouts: Sequence[Layout],
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    sizes: Mapping[str, int],
) -> list[RankPlan]:
    """`plans` with the layers quantised that `tensors` has steps of; `sizes`: of every axis on one rank."""
    by_name = {layout.name: layout for layout in layouts}
    tp = len(plans)
    found: list[list[tuple[str, Lazy]]] = [[] for _ in plans]
    for of_ranks in zip(*(plan.tensors for plan in plans), strict=True):
        name, ranks = of_ranks[0][0], [tensor for _, tensor in of_ranks]
        inputs = by_name[name].inputs
        part = next((part for part in _ROUNDS if replace(inputs[0], part=part) in tensors), None)
        if part is None or inputs[0].part != "weight":
            for r, rank in enumerate(ranks):
                found[r].append((name, rank))
            continue
        rounds = _ROUNDS[part]
        steps, scales = (_vectors(inputs, of, config, tp, sizes, tensors) for of in (part, rounds.scale))
        # Layers that are joined read the same input: so they have the same columns.
        columns: Sequence[Lazy | None] = [None] * tp
        if replace(inputs[0], part="columns") in tensors:
            columns = _vectors(inputs[:1], "columns", config, tp, sizes, tensors)
        for r, rank in enumerate(ranks):
            how = Quantise(steps[r], columns[r], rounds.format)
            found[r].append((name, replace(rank, dtype=rounds.dtype, quantise=how, packing=rounds.packing)))
            found[r].append((scale_of(name), scales[r]))
    return [RankPlan(plan.file, tuple(names)) for plan, names in zip(plans, found, strict=True)]


def scale_of(weight: str) -> str:
    """The file tensor with the scales of the file tensor `weight`."""
    return f"{weight.removesuffix('weight')}scale"


def _vectors(
    inputs: Sequence[TensorId],
    part: str,
    config: ModelConfig,
    tp: int,
    sizes: Mapping[str, int],
    tensors: Mapping[TensorId, Lazy],
) -> list[Lazy]:
    """Of every rank: what belongs to the rows, groups or columns of one file tensor, float32."""
    own = tuple(replace(tensor, part=part) for tensor in inputs)
    programs = tuple(spread(tensor.axes, config, tp) for tensor in own)
    return Layout("", own, programs, join_scales(own, sizes)).to_ranks(tensors)
