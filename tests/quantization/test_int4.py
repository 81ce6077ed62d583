from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compiler.model.lazy import Packing
from compiler.quantization.format import Values, group_maxima
from compiler.quantization.formats import int4
from compiler.quantization.rounding import pack
from tests.quantization import numpy_int4
from tests.quantization.numpy_int4 import Integers

INTEGERS = arrays(
    np.int8, st.tuples(st.integers(1, 6).map(lambda n: 2 * n), st.integers(1, 6).map(lambda n: 2 * n)),
    elements=st.integers(-8, 7),
)  # fmt: skip
WEIGHTS = arrays(np.float32, (5, 32), elements=st.floats(-100, 100, width=32))


@given(INTEGERS, st.sampled_from([-2, -1]))
def test_packing_is_undone(integers: Integers, axis: Literal[-1, -2]) -> None:
    packed = pack(integers, Packing(axis, 1))
    assert packed.nbytes * 2 == integers.nbytes
    np.testing.assert_array_equal(numpy_int4.unpack(packed, axis), integers)


def test_the_even_column_is_the_lower_half() -> None:
    assert pack(np.array([[1, 2, -1, -8]], np.int8), Packing(-1, 1)).tolist() == [[0x21, 0x8F]]
    # As TensorRT-LLM's AWQ layout has it: neighbours along the outputs.
    assert pack(np.array([[3], [-2]], np.int8), Packing(-2, 1)).tolist() == [[0xE3]]


def test_an_odd_axis_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="into runs of 2"):
        pack(np.zeros((2, 3), np.int8), Packing(-1, 1))


@given(WEIGHTS)
def test_an_integer_is_off_by_half_a_step_at_most(weight: Values) -> None:
    scales = int4.scales(group_maxima(weight, 8))
    assert scales.shape == (5, 4)
    integers = numpy_int4.quantize(weight, scales)
    assert integers.min() >= -8
    assert integers.max() <= 7
    error = np.abs(numpy_int4.dequantize(integers, scales) - weight).reshape(5, 4, 8)
    assert (error <= 0.5001 * scales[..., None] + 1e-6).all()


def test_groups_do_not_see_each_other() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 32), np.float32)
    outlier = weight.copy()
    outlier[:, 0] = 1000
    one, other = (numpy_int4.quantize(w, int4.scales(group_maxima(w, 8))) for w in (weight, outlier))
    np.testing.assert_array_equal(one[:, 8:], other[:, 8:])
    assert not other[:, 1:8].any()


def test_rows_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="rows of 30 do not divide into groups of 8"):
        group_maxima(np.zeros((2, 30), np.float32), 8)
