"""Layout of rank files: canonical tensors -> file tensors of every rank, and back. Shared by all targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from compiler.model.lazy import Fold, Lazy, Packing, Quantize, RankPlan, cast
from compiler.model.ops import Concat, Each, Op, Program, Rearrange, inverse, run
from compiler.model.programs import stored_axes
from compiler.model.roles import TensorId, has_experts, linear_axes


@dataclass(frozen=True)
class Rounds:
    """Quantization of a file tensor's weights: layouts of the `steps` of its rows or groups and of its `columns`, each
    from parts of the layers that the tensor joins.
    """

    steps: Layout
    columns: Layout
    format: str

    def of_ranks(self, tensors: Mapping[TensorId, Lazy], ranks: int) -> list[Quantize | None]:
        """Quantization of every rank's shard; None where the weights are quantized already: `tensors` has no steps."""
        if not set(self.steps.inputs) <= tensors.keys():
            return [None] * ranks
        columns: Sequence[Lazy | None] = [None] * ranks
        if set(self.columns.inputs) <= tensors.keys():
            columns = self.columns.to_ranks(tensors)
        steps = self.steps.to_ranks(tensors)
        return [Quantize(rows, of, self.format) for rows, of in zip(steps, columns, strict=True)]


@dataclass(frozen=True)
class Layout:
    """Layout of one file tensor.

    `spread[i]` splits the i-th input into one shard per rank; `join` joins the shards of one rank to the file tensor:

        attn.q --spread--> q_0 q_1        rank 0: q_0 k_0 v_0 --join--> attn.qkv
        attn.k --spread--> k_0 k_1        rank 1: q_1 k_1 v_1 --join--> attn.qkv
        attn.v --spread--> v_0 v_1

    `fuse` joins and splits the inputs before that, where ranks have parts of a fused matrix: `spread` is then of its
    results.
    """

    name: str
    inputs: tuple[TensorId, ...]
    spread: tuple[Program, ...]
    join: Program
    dtype: str | None = None  # safetensors' name; None: the dtype of the files
    fold: Fold = ""  # after the join, before the cast
    stage: int = 0  # pipeline stage; names are unique within one
    rounds: Rounds | None = None  # after the join
    fuse: Program = ()  # of all inputs, before the spread
    packing: Packing | None = None  # after the rounding; not undone by `from_ranks`

    def to_ranks(self, tensors: Mapping[TensorId, Lazy]) -> list[Lazy]:
        """File tensor of every rank."""
        sources = run(self.fuse, [tensors[t] for t in self.inputs])
        shards = [run(p, [one]) for p, one in zip(self.spread, sources, strict=True)]
        return [run(self.join, rank)[0] for rank in zip(*shards, strict=True)]

    def from_ranks(self, ranks: Sequence[Lazy]) -> dict[TensorId, Lazy]:
        """Canonical tensors, from the file tensor of every rank: the inverse of `to_ranks`."""
        parts = [run(inverse(self.join), [tensor]) for tensor in ranks]
        sources = [
            run(inverse(p), list(shards))[0] for p, shards in zip(self.spread, zip(*parts, strict=True), strict=True)
        ]
        return dict(zip(self.inputs, run(inverse(self.fuse), sources), strict=True))


def to_rank_plans(
    layouts: Sequence[Layout], tensors: Mapping[TensorId, Lazy], dtype: str, file: Callable[[int], str]
) -> list[RankPlan]:
    """File of every rank, with tensors in the order of `layouts`. `dtype`: safetensors' name.

    Shard r of a layout goes to rank `stage x shards + r`.
    """
    ranks: dict[int, list[tuple[str, Lazy]]] = defaultdict(list)
    for layout in layouts:
        shards = layout.to_ranks(tensors)
        rounds = layout.rounds.of_ranks(tensors, len(shards)) if layout.rounds else [None] * len(shards)
        for r, (shard, quantize) in enumerate(zip(shards, rounds, strict=True)):
            tensor = replace(
                cast(shard, layout.dtype or dtype), fold=layout.fold, quantize=quantize, packing=layout.packing
            )
            ranks[layout.stage * len(shards) + r].append((layout.name, tensor))
    return [RankPlan(file(r), tuple(ranks[r])) for r in sorted(ranks)]


def join_rows(inputs: Sequence[TensorId], sizes: Mapping[str, int]) -> Program:
    """Program that joins one rank's shards to one file tensor: each becomes a matrix, whose rows are concatenated.

    `sizes`: size of every axis on one rank. Experts stay a leading axis: their matrices are joined one by one.
    """
    flat: list[Program] = []
    rows: list[int] = []
    axis = 0
    for tensor in inputs:
        groups = stored_axes(tensor.role, tensor.part)
        axis = 1 if has_experts(tensor.role) else 0
        before = " ".join(name for g in groups for name in g)
        after = " ".join(f"({' '.join(g)})" if len(g) > 1 else g[0] for g in groups)
        flat.append((Rearrange(f"{before} -> {after}", tuple((name, sizes[name]) for g in groups for name in g)),))
        rows.append(prod(sizes[name] for name in groups[axis]))
    each: Op = Each(tuple(flat))
    return (each, Concat(axis, tuple(rows))) if len(inputs) > 1 else (each,)


def join_scales(inputs: Sequence[TensorId], sizes: Mapping[str, int]) -> Program:
    """Program like `join_rows` for scales of the rows, columns or groups of linear layers.

    Rows are one axis, columns or groups another, each where the part has it; experts stay leading axes. `sizes` needs
    no groups: their number is their shard's.
    """
    flat: list[Program] = []
    lengths: list[int] = []
    axis = 0
    for tensor in inputs:
        lead, rows, _ = linear_axes(tensor.role)
        axis = len(lead) if lead and tensor.axes[: len(lead)] == lead else 0
        rest = tensor.axes[axis:]
        groups = [rest[: len(rows)], rest[len(rows) :]] if rest[: len(rows)] == rows else [rest]
        after = [f"({' '.join(group)})" if len(group) > 1 else group[0] for group in groups if group]
        pattern = f"{' '.join(tensor.axes)} -> {' '.join((*tensor.axes[:axis], *after))}"
        joined = [name for group in groups if len(group) > 1 for name in group]
        flat.append((Rearrange(pattern, tuple((name, sizes[name]) for name in joined)),))
        lengths.append(prod(sizes[name] for name in groups[0]))
    each: Op = Each(tuple(flat))
    return (each, Concat(axis, tuple(lengths))) if len(inputs) > 1 else (each,)
