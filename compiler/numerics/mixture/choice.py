"""Choice of the parts to round: arithmetic on measured costs.

A part has a point (bytes, cost) for each scheme. Only the lower convex hull of these is of use: along it every step to
fewer bytes costs more per byte than the one before. All steps of all parts, sorted by their cost per byte, are the
greedy order of the knapsack's relaxation (Dantzig 1957): any beginning of it has the least sum of costs for its bytes.
The cost of a whole mixture is not that sum, and is measured (`trade.py`) for RUNGS beginnings, spaced by bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING

from compiler.model.roles import axis_sizes, linear_axes
from compiler.quantization.formats import load
from compiler.quantization.groups import quantized_roles
from compiler.quantization.schemes import PARTS, part_of

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.roles import Block
    from compiler.quantization.schemes import Scheme

RUNGS = 12
"""Mixtures that are measured, besides the unquantized model."""
NONE = "none"
"""Name in place of a scheme: not rounded."""

Mixture = tuple[tuple[str, str], ...]
"""Schemes of attention and of the mlp of every layer, by name."""


@dataclass(frozen=True)
class Point:
    """A part of a layer in a scheme: bytes of its weights, and what it costs to round it alone, in nats."""

    scheme: str
    nbytes: int
    cost: float


@dataclass(frozen=True)
class Reduction:
    """Change of a part of a layer from the scheme before to `scheme`."""

    layer: int
    part: Block
    scheme: str
    saved: int
    cost: float

    @property
    def price(self) -> float:
        """Cost per byte that is saved."""
        return self.cost / self.saved


def part_name(layer: int, part: str) -> str:
    """`layers.3.attn`."""
    return f"layers.{layer}.{part}"


def hull(points: Sequence[Point]) -> list[Point]:
    """Lower convex hull, from the most bytes to the fewest."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.nbytes, one.cost)):
        if found and point.nbytes == found[-1].nbytes:
            continue
        while len(found) > 1 and _price(found[-2], point) <= _price(found[-2], found[-1]):
            found.pop()
        found.append(point)
    return found


def _price(before: Point, after: Point) -> float:
    return (after.cost - before.cost) / (before.nbytes - after.nbytes)


def steps(points: Mapping[str, Sequence[Point]], layers: int) -> list[Reduction]:
    """Steps of all parts, by their cost per byte; steps of one part stay in their order. `points`: by `part_name`."""
    found = []
    for layer in range(layers):
        for part in PARTS:
            on_hull = hull(points[part_name(layer, part)])
            for before, after in pairwise(on_hull):
                cost = max(after.cost - before.cost, 0.0)
                found.append(Reduction(layer, part, after.scheme, before.nbytes - after.nbytes, cost))
    return sorted(found, key=lambda step: step.price)


def mixture(taken: Sequence[Reduction], layers: int) -> Mixture:
    """Mixture after the steps `taken`."""
    found = [dict.fromkeys(PARTS, NONE) for _ in range(layers)]
    for step in taken:
        found[step.layer][step.part] = step.scheme
    return tuple((of["attn"], of["mlp"]) for of in found)


def rungs(order: Sequence[Reduction], count: int = RUNGS) -> list[list[Reduction]]:
    """Beginnings of `order`, from none of it to all of it, of about equal differences in bytes."""
    saved = list(accumulate((step.saved for step in order), initial=0))
    lengths = {bisect_left(saved, saved[-1] * rung // count) for rung in range(count + 1)}
    return [list(order[:length]) for length in sorted(lengths)]


def part_bytes(config: ModelConfig, layer: int, part: str, scheme: Scheme | None, itemsize: int) -> int:
    """Bytes of the weights and scales of a part's linear layers in a scheme; None: `itemsize` for each weight."""
    sizes, total = axis_sizes(config), 0
    for role in quantized_roles(config, config.layer_kinds[layer]):
        if part_of(role) != part:
            continue
        lead, out, inner = linear_axes(role)
        rows, columns = prod(sizes[axis] for axis in (*lead, *out)), prod(sizes[axis] for axis in inner)
        if scheme is None:
            total += rows * columns * itemsize
        else:
            total += rows * columns * load(scheme.weights).bits // 8 + 4 * rows * (columns // (scheme.group or columns))
    return total
