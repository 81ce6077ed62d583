from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compiler.quantization.formats import int4
from compiler.quantization.formats.int4 import Integers, Values

INTEGERS = arrays(
    np.int8, st.tuples(st.integers(1, 6).map(lambda n: 2 * n), st.integers(1, 6).map(lambda n: 2 * n)),
    elements=st.integers(-8, 7),
)  # fmt: skip
WEIGHTS = arrays(np.float32, (5, 32), elements=st.floats(-100, 100, width=32))


@given(INTEGERS, st.sampled_from([0, 1, -1]))
def test_packing_is_undone(integers: Integers, axis: int) -> None:
    packed = int4.pack(integers, axis)
    assert packed.nbytes * 2 == integers.nbytes
    np.testing.assert_array_equal(int4.unpack(packed, axis), integers)


def test_the_even_column_is_the_lower_half() -> None:
    assert int4.pack(np.array([[1, 2, -1, -8]], np.int8)).tolist() == [[0x21, 0x8F]]
    # As TensorRT-LLM's AWQ layout has it: neighbours along the outputs.
    assert int4.pack(np.array([[3], [-2]], np.int8), axis=0).tolist() == [[0xE3]]


def test_an_odd_axis_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="into runs of 2"):
        int4.pack(np.zeros((2, 3), np.int8))


@given(WEIGHTS)
def test_an_integer_is_off_by_half_a_step_at_most(weight: Values) -> None:
    scales = int4.scales(int4.group_maxima(weight, 8))
    assert scales.shape == (5, 4)
    integers = int4.quantize(weight, scales)
    assert integers.min() >= -8
    assert integers.max() <= 7
    error = np.abs(int4.dequantize(integers, scales) - weight).reshape(5, 4, 8)
    assert (error <= 0.5001 * scales[..., None] + 1e-6).all()


def test_groups_do_not_see_each_other() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 32), np.float32)
    outlier = weight.copy()
    outlier[:, 0] = 1000
    one, other = (int4.quantize(w, int4.scales(int4.group_maxima(w, 8))) for w in (weight, outlier))
    np.testing.assert_array_equal(one[:, 8:], other[:, 8:])
    assert not other[:, 1:8].any()


def test_rows_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="rows of 30 do not divide into groups of 8"):
        int4.group_maxima(np.zeros((2, 30), np.float32), 8)
