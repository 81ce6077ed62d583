"""Choice among schemes: every mixture on the way has the least sum of costs for its bytes."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.numerics.mixture.choice import Point, hull, mixture, part_name, rungs, steps

POINTS = st.lists(
    st.tuples(st.floats(1e-6, 1.0), st.floats(0, 1.0)).map(
        lambda of: [Point("none", 160, 0.0), Point("int8", 84, of[0]), Point("int4", 45, of[0] + of[1])]
    ),
    min_size=2,
    max_size=6,
)


def by_part(points: list[list[Point]]) -> dict[str, list[Point]]:
    """Two parts for each layer."""
    names = [part_name(layer, part) for layer in range(len(points) // 2) for part in ("attn", "mlp")]
    return dict(zip(names, points, strict=False))


def test_a_scheme_that_costs_more_than_its_neighbors_allow_is_left_out() -> None:
    none, int8, int4 = Point("none", 160, 0.0), Point("int8", 84, 1.0), Point("int4", 45, 1.01)
    assert hull([none, int8, int4]) == [none, int4]
    assert hull([int4, none, Point("int8", 84, 0.1)]) == [none, Point("int8", 84, 0.1), int4]


@given(POINTS)
def test_every_beginning_is_the_cheapest_of_its_size(points: list[list[Point]]) -> None:
    layers = len(points) // 2
    own = by_part(points[: 2 * layers])
    order, names = steps(own, layers), list(own)
    assert all(before.price <= after.price for before, after in pairwise(order))
    taken: list[Point] = [max(own[name], key=lambda point: point.nbytes) for name in names]
    everything = list(product(*own.values()))
    for count, step in enumerate(order, 1):
        taken[names.index(part_name(step.layer, step.part))] = next(
            point for point in own[part_name(step.layer, step.part)] if point.scheme == step.scheme
        )
        assert mixture(order[:count], layers) == tuple(
            (taken[2 * layer].scheme, taken[2 * layer + 1].scheme) for layer in range(layers)
        )
        nbytes, cost = sum(point.nbytes for point in taken), sum(point.cost for point in taken)
        least = min(sum(one.cost for one in found) for found in everything if sum(p.nbytes for p in found) <= nbytes)
        assert cost <= least + 1e-9


@given(POINTS, st.integers(1, 20))
def test_rungs_are_spaced_by_bytes_from_none_to_all(points: list[list[Point]], count: int) -> None:
    layers = len(points) // 2
    order = steps(by_part(points[: 2 * layers]), layers)
    found = rungs(order, count)
    assert found[0] == []
    assert found[-1] == order
    assert len(found) <= count + 1
    lengths = [len(rung) for rung in found]
    assert lengths == sorted(set(lengths))
    total, saved = sum(step.saved for step in order), [sum(step.saved for step in rung) for rung in found]
    widest = max(step.saved for step in order)
    assert all(after - before <= total / count + widest for before, after in pairwise(saved))


def test_no_step_that_saves_nothing() -> None:
    assert hull([Point("none", 10, 0.0), Point("other", 10, 1.0)]) == [Point("none", 10, 0.0)]
    assert steps({"layers.0.attn": [Point("none", 10, 0.0)], "layers.0.mlp": [Point("none", 8, 0.0)]}, 1) == []


@pytest.mark.parametrize("count", [1, 3])
def test_without_steps_there_is_one_rung(count: int) -> None:
    assert rungs([], count) == [[]]
