"""From canonical tensors to the files of the ranks, and back: the part that every target shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compiler.ir.lazy import Lazy, RankPlan, cast
from compiler.ir.ops import Program, inverse, run
from compiler.ir.roles import TensorId


@dataclass(frozen=True)
class Layout:
    """How one file tensor comes from canonical tensors.

    `spread[i]` takes the i-th input to one shard a rank; `join` takes the shards of one rank to the file tensor:

        attn.q --spread--> q_0 q_1        rank 0: q_0 k_0 v_0 --join--> attn.qkv
        attn.k --spread--> k_0 k_1        rank 1: q_1 k_1 v_1 --join--> attn.qkv
        attn.v --spread--> v_0 v_1
    """

    name: str
    inputs: tuple[TensorId, ...]
    spread: tuple[Program, ...]
    join: Program

    def to_ranks(self, tensors: Mapping[TensorId, Lazy]) -> list[Lazy]:
        """The file tensor of every rank."""
        shards = [run(p, [tensors[t]]) for p, t in zip(self.spread, self.inputs, strict=True)]
        return [run(self.join, rank)[0] for rank in zip(*shards, strict=True)]

    def from_ranks(self, ranks: Sequence[Lazy]) -> dict[TensorId, Lazy]:
        """The canonical tensors again, from the file tensor of every rank."""
        parts = [run(inverse(self.join), [tensor]) for tensor in ranks]
        return {
            t: run(inverse(p), list(shards))[0]
            for t, p, shards in zip(self.inputs, self.spread, zip(*parts, strict=True), strict=True)
        }


def to_rank_plans(
    layouts: Sequence[Layout], tensors: Mapping[TensorId, Lazy], dtype: str, file: Callable[[int], str]
) -> list[RankPlan]:
    """The file of every rank, tensors in the order of `layouts`; `dtype` by its safetensors name."""
    ranks: list[list[tuple[str, Lazy]]] = []
    for layout in layouts:
        shards = layout.to_ranks(tensors)
        ranks = ranks or [[] for _ in shards]
        for rank, tensor in zip(ranks, shards, strict=True):
            rank.append((layout.name, cast(tensor, dtype)))
    return [RankPlan(file(r), tuple(rank)) for r, rank in enumerate(ranks)]
