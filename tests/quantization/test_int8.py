from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from compiler.quantization.format import Values
from compiler.quantization.formats import int8
from tests.quantization import numpy_int8

MATRICES = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.floats(-1e3, 1e3, width=32)
)


@given(MATRICES)
def test_an_integer_is_off_by_half_a_step_at_most(weight: Values) -> None:
    maxima = numpy_int8.row_maxima(weight)[:, None]
    integers = numpy_int8.quantize(weight, int8.steps(maxima))
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= 127
    back = numpy_int8.dequantize(integers, int8.scales(maxima))
    assert (np.abs(back - weight) <= 0.5001 * int8.scales(maxima) + 1e-7 * np.abs(weight)).all()


@given(MATRICES)
def test_the_largest_of_a_row_is_127_and_signs_mirror(weight: Values) -> None:
    steps = int8.steps(numpy_int8.row_maxima(weight))[:, None]
    integers = numpy_int8.quantize(weight, steps).astype(int)
    used = np.abs(weight).max(-1) > 1e-6
    assert (np.abs(integers).max(-1)[used] == 127).all()
    np.testing.assert_array_equal(numpy_int8.quantize(-weight, steps), -integers)


@given(MATRICES, st.integers(1, 5))
def test_blocks_of_rows_give_the_same(weight: Values, rows: int) -> None:
    steps = int8.steps(numpy_int8.row_maxima(weight))[:, None]
    whole = numpy_int8.quantize(weight, steps)
    blocks = [
        numpy_int8.quantize(weight[i : i + rows], int8.steps(numpy_int8.row_maxima(weight[i : i + rows]))[:, None])
        for i in range(0, len(weight), rows)
    ]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_ties_go_to_even() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 127.4, 200, -200], np.float32)
    assert numpy_int8.quantize(values, np.ones(1, np.float32)).tolist() == [0, 2, 2, 0, -2, 127, 127, -127]


def test_dead_rows_and_tokens_are_zero_and_finite() -> None:
    weight = np.zeros((3, 8), np.float32)
    maxima = numpy_int8.row_maxima(weight)
    assert np.isfinite(int8.steps(maxima)).all()
    assert not numpy_int8.quantize(weight, int8.steps(maxima)[:, None]).any()
    integers, scales = numpy_int8.quantize_tokens(weight)
    assert not integers.any()
    assert np.isfinite(scales).all()


@given(MATRICES)
def test_every_token_has_its_own_scale(x: Values) -> None:
    integers, scales = numpy_int8.quantize_tokens(x)
    assert scales.shape == (len(x), 1)
    assert (np.abs(numpy_int8.dequantize(integers, scales) - x) <= 0.5001 * scales + 1e-7 * np.abs(x)).all()
    for row in range(len(x)):
        np.testing.assert_array_equal(numpy_int8.quantize_tokens(x[row : row + 1])[0][0], integers[row])


def test_static_scales_give_the_product() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((9, 64), np.float32), rng.standard_normal((7, 64), np.float32)
    y = x @ weight.T
    steps = int8.steps(numpy_int8.row_maxima(weight))
    static = int8.static(float(np.abs(x).max()), float(np.abs(y).max()), steps)
    product = numpy_int8.quantize(x, np.array(static.input)).astype(np.int32) @ numpy_int8.quantize(
        weight, steps[:, None]
    ).T.astype(np.int32)
    integers = np.rint(product * static.accumulated)
    np.testing.assert_allclose(integers * static.output, y, atol=0.05 * np.abs(y).max())


def test_a_cache_has_its_largest_at_127() -> None:
    use = int8.FORMAT.cache
    assert use is not None
    np.testing.assert_allclose(use.layer_scale(12.7), 0.1, rtol=1e-6)
    np.testing.assert_allclose(use.head_scales(np.array([12.7, 254], np.float32)), [0.1, 2], rtol=1e-6)


@given(MATRICES)
def test_weights_are_rounded_as_defined(weight: Values) -> None:
    steps = int8.steps(numpy_int8.row_maxima(weight))[:, None]
    np.testing.assert_array_equal(int8.FORMAT.round(weight * steps), numpy_int8.quantize(weight, steps))
    assert int8.FORMAT.round(np.array([-128, -200, 200], np.float32)).tolist() == [-128, -128, 127]
