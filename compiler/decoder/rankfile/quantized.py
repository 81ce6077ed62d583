"""Quantized linear layers in the rank files: rounded weights, and the scale of each row or group.

| file tensor                   | dtype   | shape on a rank                 | from                                     |
|-------------------------------|---------|---------------------------------|------------------------------------------|
| layers.i.attn.qkv.weight      | int8    | [out, in], as in floating point | weight, columns, steps of attn.q .k .v   |
| layers.i.attn.qkv.weight      | e4m3    | fp8: the same                   | the same                                 |
| layers.i.attn.qkv.scale       | float32 | [out]                           | scale of attn.q .k .v                    |
| layers.i.attn.qkv.input_scale | float32 | [1], static activations         | input_scale of attn.q: that of all three |
| layers.i.attn.qkv.weight      | uint8   | int4: [out, in / 2]             | weight, columns, group_steps of attn.q   |
| layers.i.attn.qkv.scale       | float32 | int4: [out, in / group]         | group_scale of attn.q .k .v              |

Every linear layer with canonical `steps` or `group_steps` is stored so; other tensors are those of `layout.py`. A byte
of int4 holds column 2 j in its lower half, column 2 j + 1 in its upper; products read this packing. Scales of rows,
columns and groups are split, copied and joined like these: a row-parallel layer has the scales of whole rows on every
rank, so that sharding and quantizing commute. An input has one scale on all ranks and for all experts of a layer; for
the input of `down` it comes from the largest among the experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler.model.config import ModelConfig
from compiler.model.layout import Layout, join_scales
from compiler.model.lazy import Lazy, Packing, Quantize, RankPlan
from compiler.model.parallel import spread
from compiler.model.roles import TensorId
from compiler.quantization.formats import products


@dataclass(frozen=True)
class StoredWeight:
    """A quantized weight [..., out, in] in the rank file.

    `format`: name of its number format. `dtype`, `torch_dtype`: names in safetensors and in torch. `steps`, `scale`:
    names of its canonical parts. `group`: neighbors in a row that share a scale (None: all). `input_scale`: whether the
    file has one.
    """

    format: str
    dtype: str
    torch_dtype: str
    steps: str
    scale: str
    group: int | None
    packing: Packing | None
    input_scale: bool

    def shapes(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Shapes of the weight `name` and its scales, in file order; `shape`: that of the weight in floating point."""
        groups = (shape[-1] // self.group,) if self.group else ()
        found = {name: self.packing.shape(shape) if self.packing else shape, scale_of(name): (*shape[:-1], *groups)}
        return found | ({input_scale_of(name): (1,)} if self.input_scale else {})


def stored_weight(name: str) -> StoredWeight:
    """Weights of linear layers that are computed as the `Product` of that name."""
    form, product = products()[name]
    part = "" if product.group is None else "group_"
    return StoredWeight(
        form.name,
        "U8" if form.packing else form.dtype,
        "uint8" if form.packing else form.torch_dtype,
        f"{part}steps",
        f"{part}scale",
        product.group,
        form.packing,
        product.activations == "tensor",
    )


def quantize_layers(
    plans: Sequence[RankPlan],
    layouts: Sequence[Layout],
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    sizes: Mapping[str, int],
    kinds: Sequence[StoredWeight],
) -> list[RankPlan]:
    """Rank plans in which layers with steps of one of `kinds` among `tensors` are quantized; `sizes`: of every axis on
    one rank.
    """
    by_name = {layout.name: layout for layout in layouts}
    tp = len(plans)
    found: list[list[tuple[str, Lazy]]] = [[] for _ in plans]
    for of_ranks in zip(*(plan.tensors for plan in plans), strict=True):
        name, ranks = of_ranks[0][0], [tensor for _, tensor in of_ranks]
        inputs = by_name[name].inputs
        stored = next((kind for kind in kinds if replace(inputs[0], part=kind.steps) in tensors), None)
        if inputs[0].part != "weight" or stored is None:
            for r, rank in enumerate(ranks):
                found[r].append((name, rank))
            continue
        steps, scales = (_vectors(inputs, of, config, tp, sizes, tensors) for of in (stored.steps, stored.scale))
        # Joined layers read the same input, so they have the same columns and input scale.
        columns: Sequence[Lazy | None] = [None] * tp
        if replace(inputs[0], part="columns") in tensors:
            columns = _vectors(inputs[:1], "columns", config, tp, sizes, tensors)
        for r, rank in enumerate(ranks):
            rounding = Quantize(steps[r], columns[r], stored.format)
            found[r].append((name, replace(rank, dtype=stored.dtype, quantize=rounding, packing=stored.packing)))
            found[r].append((scale_of(name), scales[r]))
        if stored.input_scale:
            for r, scale in enumerate(_vectors(inputs[:1], "input_scale", config, tp, sizes, tensors)):
                found[r].append((input_scale_of(name), scale))
    return [RankPlan(plan.file, tuple(names)) for plan, names in zip(plans, found, strict=True)]


def scale_of(weight: str) -> str:
    """Name of the scales of the file tensor `weight`."""
    return f"{weight.removesuffix('weight')}scale"


def input_scale_of(weight: str) -> str:
    """Name of the input scale of the file tensor `weight`."""
    return f"{weight.removesuffix('weight')}input_scale"


def _vectors(
    inputs: Sequence[TensorId],
    part: str,
    config: ModelConfig,
    tp: int,
    sizes: Mapping[str, int],
    tensors: Mapping[TensorId, Lazy],
) -> list[Lazy]:
    """Float32 scales of the rows, groups, columns or input of one file tensor, for every rank."""
    own = tuple(replace(tensor, part=part) for tensor in inputs)
    programs = tuple(spread(tensor.axes, config, tp) for tensor in own)
    return Layout("", own, programs, join_scales(own, sizes)).to_ranks(tensors)
