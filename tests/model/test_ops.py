"""Every op is tested by undoing it, and against numpy where numpy has a word for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.model import lazy
from compiler.model.ops import (
    Concat,
    Each,
    Gather,
    OnFirst,
    Pad,
    Program,
    Rearrange,
    Repeat,
    Replicate,
    Shard,
    Split,
    Stack,
    inverse,
    parse_pattern,
    run,
)

SIZES = {"a": 2, "b": 3, "c": 4, "d": 2}


def _tensors(*shapes: tuple[int, ...]) -> tuple[list[lazy.Lazy], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    data = {f"t{i}": rng.integers(1, 2**16, shape, dtype="u2") for i, shape in enumerate(shapes)}
    return [lazy.whole(name, array.shape, "BF16") for name, array in data.items()], data


def _values(tensors: list[lazy.Lazy], data: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [lazy.read(t, lambda name: data[name].ravel()) for t in tensors]


PROGRAMS: list[tuple[Program, tuple[tuple[int, ...], ...]]] = [
    ((Split(0, (3, 1, 2)),), ((6, 4),)),
    ((Split(1, (1, 3)),), ((6, 4),)),
    ((Concat(0, (2, 5)),), ((2, 3), (5, 3))),
    ((Stack(3),), ((2, 4), (2, 4), (2, 4))),
    ((Repeat(0, 3),), ((2, 4),)),
    ((Repeat(1, 2),), ((2, 4),)),
    ((Pad(0, 5, 8),), ((5, 2),)),
    ((Shard(0, 4),), ((8, 3),)),
    ((Shard(1, 2),), ((3, 8),)),
    ((Gather(0, 2),), ((4, 3), (4, 3))),
    ((Replicate(3),), ((4, 3),)),
    ((OnFirst(3),), ((4, 3),)),
    ((Shard(1, 2), Shard(0, 3)), ((6, 4),)),
    ((Pad(0, 5, 8), Shard(0, 4)), ((5, 2),)),
    ((Repeat(0, 4), Shard(0, 8)), ((2, 3, 5),)),
    ((Stack(2), Rearrange("e i o -> e o i", ()), Split(1, (1, 2))), ((4, 3), (4, 3))),
    ((Each(((Repeat(0, 2),), (Pad(1, 3, 4),))), ), ((2, 3), (2, 3))),
]  # fmt: skip


@pytest.mark.parametrize(("program", "shapes"), PROGRAMS, ids=lambda v: str(v)[:60])
def test_the_inverse_gives_every_bit_back(program: Program, shapes: tuple[tuple[int, ...], ...]) -> None:
    tensors, data = _tensors(*shapes)
    back = run(inverse(program), run(program, tensors))
    assert inverse(inverse(program)) == program
    for got, want in zip(_values(back, data), data.values(), strict=True):
        np.testing.assert_array_equal(got, want)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    def side() -> str:
        names, words = list(draw(st.permutations("abcd"))), []
        while names:
            size = draw(st.integers(1, len(names)))
            group, names = names[:size], names[size:]
            words.append(f"({' '.join(group)})" if size > 1 else group[0])
        return " ".join(words)

    return f"{side()} -> {side()}"


@given(patterns())
def test_rearrange_is_reshape_transpose_reshape_and_inverts(pattern: str) -> None:
    before, after = parse_pattern(pattern)
    shape = tuple(int(np.prod([SIZES[n] for n in g])) for g in before)
    tensors, data = _tensors(shape)
    op = Rearrange(pattern, tuple(SIZES.items()))
    got = run((op,), tensors)
    flat = [n for g in before for n in g]
    order = [flat.index(n) for g in after for n in g]
    want = (
        data["t0"]
        .reshape([SIZES[n] for n in flat])
        .transpose(order)
        .reshape([int(np.prod([SIZES[n] for n in g])) for g in after])
    )
    np.testing.assert_array_equal(_values(got, data)[0], want)
    np.testing.assert_array_equal(_values(run(inverse((op,)), got), data)[0], data["t0"])


def test_repeat_is_consecutive() -> None:
    tensors, data = _tensors((2, 3))
    np.testing.assert_array_equal(_values(run((Repeat(0, 2),), tensors), data)[0], np.repeat(data["t0"], 2, axis=0))


@pytest.mark.parametrize(
    ("program", "shapes"),
    [
        ((Split(0, (1, 1)),), ((6, 4),)),
        ((Shard(0, 4),), ((6, 4),)),
        ((Pad(0, 5, 4),), ((5, 4),)),
        ((Pad(0, 4, 8),), ((5, 4),)),
        ((Stack(3),), ((2, 4),)),
        ((Gather(0, 2),), ((2, 4),)),
        ((Repeat(0, 2),), ((2, 4), (2, 4))),
        ((Rearrange("(a b) c -> a b c", (("a", 2), ("b", 5), ("c", 4))),), ((6, 4),)),
    ],
    ids=str,
)
def test_a_size_that_does_not_fit_is_refused(program: Program, shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        run(program, _tensors(*shapes)[0])


@pytest.mark.parametrize("pattern", ["a b -> a", "a a -> a a", "a b -> a c"])
def test_a_pattern_names_the_same_axes_on_both_sides(pattern: str) -> None:
    with pytest.raises(ValueError, match="same names"):
        parse_pattern(pattern)


def test_two_shards_in_a_row_make_a_grid_whose_second_index_runs_fastest() -> None:
    tensors, data = _tensors((4, 6))
    parts = _values(run((Shard(1, 3), Shard(0, 2)), tensors), data)
    for i, part in enumerate(parts):
        column, row = divmod(i, 2)
        np.testing.assert_array_equal(part, data["t0"][2 * row : 2 * row + 2, 2 * column : 2 * column + 2])


def test_on_first_leaves_zeros_elsewhere() -> None:
    tensors, data = _tensors((4,))
    first, *rest = _values(run((OnFirst(3),), tensors), data)
    np.testing.assert_array_equal(first, data["t0"])
    assert [part.tolist() for part in rest] == [[0, 0, 0, 0]] * 2
