"""Quantised linear layers in the rank files: int8 rows, and beside them what an integer of each row is worth.

| file tensor              | dtype   | shape on a rank         | from                                           |
|--------------------------|---------|-------------------------|------------------------------------------------|
| layers.i.attn.qkv.weight | int8    | as without quantisation | weight, columns, steps of attn.q attn.k attn.v |
| layers.i.attn.qkv.scale  | float32 | its rows                | scale of attn.q attn.k attn.v                  |

and so for every other linear layer whose canonical tensors have `steps`; all others are as `layout.py` has them. What
belongs to rows and columns is split, copied and joined as the rows and columns themselves: a row-parallel layer has
the scales of whole rows on every rank, so that sharding and quantising commute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compiler.ir.config import ModelConfig
from compiler.ir.layout import Layout, join_scales
from compiler.ir.lazy import Lazy, Quantise, RankPlan
from compiler.ir.parallel import spread
from compiler.ir.roles import TensorId


def quantise(
    plans: Sequence[RankPlan],
    layouts: Sequence[Layout],
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    sizes: Mapping[str, int],
) -> list[RankPlan]:
    """`plans` with the layers quantised that `tensors` has `steps` of; `sizes`: of every axis on one rank."""
    by_name = {layout.name: layout for layout in layouts}
    tp = len(plans)
    found: list[list[tuple[str, Lazy]]] = [[] for _ in plans]
    for of_ranks in zip(*(plan.tensors for plan in plans), strict=True):
        name, ranks = of_ranks[0][0], [tensor for _, tensor in of_ranks]
        inputs = by_name[name].inputs
        quantised = inputs[0].part == "weight" and replace(inputs[0], part="steps") in tensors
        scales: list[Lazy] = []
        if quantised:
            steps, scales = (_vectors(inputs, part, config, tp, sizes, tensors) for part in ("steps", "scale"))
            # Layers that are joined read the same input: so they have the same columns.
            columns: Sequence[Lazy | None] = [None] * tp
            if replace(inputs[0], part="columns") in tensors:
                columns = _vectors(inputs[:1], "columns", config, tp, sizes, tensors)
            ranks = [
                replace(rank, dtype="I8", quantise=Quantise(of_rows, of_columns))
                for rank, of_rows, of_columns in zip(ranks, steps, columns, strict=True)
            ]
        for r, rank in enumerate(ranks):
            found[r].append((name, rank))
            if quantised:
                found[r].append((scale_of(name), scales[r]))
    return [RankPlan(plan.file, tuple(names)) for plan, names in zip(plans, found, strict=True)]


def scale_of(weight: str) -> str:
    """The file tensor with the scales of the rows of the file tensor `weight`."""
    return f"{weight.removesuffix('weight')}scale"


def _vectors(
    inputs: Sequence[TensorId],
    part: str,
    config: ModelConfig,
    tp: int,
    sizes: Mapping[str, int],
    tensors: Mapping[TensorId, Lazy],
) -> list[Lazy]:
    """Of every rank: what belongs to the rows (or columns) of one file tensor, float32."""
    own = tuple(replace(tensor, part=part) for tensor in inputs)
    programs = tuple(spread(tensor.axes, config, tp) for tensor in own)
    return Layout("", own, programs, join_scales(own, sizes)).to_ranks(tensors)
