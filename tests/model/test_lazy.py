"""Arithmetic on pieces against numpy on real arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.model import lazy
from compiler.model.lazy import Lazy

Pair = tuple[Lazy, np.ndarray]
SOURCES = {"a": np.arange(1, 73, dtype="u2"), "b": np.arange(1001, 1073, dtype="u2")}


def _read(tensor: Lazy) -> np.ndarray:
    return lazy.read(tensor, SOURCES.__getitem__)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """A Lazy made by a random chain of operations, and what numpy makes of the same chain."""
    shape = draw(st.sampled_from([(6, 12), (12, 6), (2, 3, 12), (4, 3, 2, 3), (72,)]))
    tensor, array = lazy.whole("a", shape, "BF16"), SOURCES["a"].reshape(shape)
    for _ in range(draw(st.integers(0, 6))):
        tensor, array = draw(st.sampled_from(STEPS))(draw, tensor, array)
    return tensor, array


def _take(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    axis = draw(st.integers(0, array.ndim - 1))
    start = draw(st.integers(0, array.shape[axis] - 1))
    stop = draw(st.integers(start + 1, array.shape[axis]))
    return lazy.take(tensor, axis, start, stop), array.take(range(start, stop), axis)


def _permute(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    order = tuple(draw(st.permutations(range(array.ndim))))
    return lazy.permute(tensor, order), array.transpose(order)


def _unflatten(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    axis = draw(st.integers(0, array.ndim - 1))
    size = array.shape[axis]
    inner = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    shape = (*array.shape[:axis], size // inner, inner, *array.shape[axis + 1 :])
    return lazy.unflatten(tensor, axis, inner), array.reshape(shape)


def _flatten(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    if array.ndim == 1:
        return tensor, array
    axis = draw(st.integers(0, array.ndim - 2))
    shape = (*array.shape[:axis], array.shape[axis] * array.shape[axis + 1], *array.shape[axis + 2 :])
    return lazy.flatten(tensor, axis), array.reshape(shape)


def _concat(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    if array.size > 500:
        return tensor, array
    axis = draw(st.integers(0, array.ndim - 1))
    rows = draw(st.integers(1, 2))
    wanted = (*array.shape[:axis], rows, *array.shape[axis + 1 :])
    if np.prod(wanted) > 72:
        return tensor, array
    other = lazy.whole("b", wanted, "BF16")
    grid = SOURCES["b"][: other.nbytes // 2].reshape(wanted)
    return lazy.concat([tensor, other], axis), np.concatenate([array, grid], axis)


def _repeat(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    if array.size > 500 or array.ndim > 4:
        return tensor, array
    axis = draw(st.integers(0, array.ndim))
    times = draw(st.integers(1, 3))
    return lazy.insert_axis(tensor, axis, times), np.repeat(np.expand_dims(array, axis), times, axis)


def _pad(draw: st.DrawFn, tensor: Lazy, array: np.ndarray) -> Pair:
    axis = draw(st.integers(0, array.ndim - 1))
    more = draw(st.integers(0, 3))
    widths = [(0, more if i == axis else 0) for i in range(array.ndim)]
    return lazy.pad(tensor, axis, array.shape[axis] + more), np.pad(array, widths)


STEPS = [_take, _permute, _unflatten, _flatten, _concat, _repeat, _pad]


@given(pairs())
def test_any_chain_of_operations_gives_what_numpy_gives(pair: Pair) -> None:
    tensor, array = pair
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(_read(tensor), array)


@given(pairs())
def test_pieces_lie_inside_the_tensor_and_never_overlap(pair: Pair) -> None:
    tensor, _ = pair
    covered = np.zeros(tensor.shape, dtype=int)
    for piece in tensor.pieces:
        covered[tuple(slice(a, a + n) for a, n in zip(piece.at, piece.shape, strict=True))] += 1
        assert all(a + n <= size for a, n, size in zip(piece.at, piece.shape, tensor.shape, strict=True))
    assert covered.max(initial=0) <= 1


def test_joining_other_dtypes_than_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot join"):
        lazy.concat([lazy.whole("a", (2, 2), "BF16"), lazy.whole("b", (2, 2), "I8")], 0)


@pytest.mark.parametrize(
    ("dtypes", "common"), [(("BF16", "F32"), "F32"), (("BF16", "F16"), "F32"), (("F16", "F64"), "F64")]
)
def test_floats_of_different_dtypes_are_joined_as_a_wider_one(dtypes: tuple[str, str], common: str) -> None:
    joined = lazy.concat([lazy.whole(dtype, (2, 2), dtype) for dtype in dtypes], 0)
    assert (joined.shape, joined.dtype, joined.source_dtype) == ((4, 2), common, common)
    assert [piece.source for piece in joined.pieces] == list(dtypes)


def test_an_axis_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        lazy.unflatten(lazy.whole("a", (7,), "BF16"), 0, 2)


def test_bytes_follow_the_dtype_of_the_output() -> None:
    tensor = lazy.cast(lazy.whole("a", (3, 4), "BF16"), "F32")
    assert (tensor.nbytes, tensor.source_dtype) == (48, "BF16")


def test_a_folded_tensor_takes_no_further_step() -> None:
    folded = replace(lazy.whole("a", (3, 4), "BF16"), fold="plus_one")
    with pytest.raises(ValueError, match="last step"):
        lazy.concat([lazy.whole("a", (3, 4), "BF16"), folded], 0)
