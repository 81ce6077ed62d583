"""SmoothQuant's formula, and the worked example of the specification: numbers that TensorRT-LLM's converters give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compiler.errors import UsageError
from compiler.quantization.format import Values
from compiler.quantization.formats import int8
from compiler.quantization.smooth import (
    CANDIDATES,
    check_alpha,
    divide_norm,
    largest_of_text,
    largest_of_token,
    output_error,
    smoothing_scales,
)
from tests.quantization import numpy_int8

WEIGHT = np.array([[0.5, -1, 0.25], [2, 0.1, -0.4]], np.float32)
INPUTS, OUTPUTS = np.array([4, 0.5, 9], np.float32), np.array([3, 5], np.float32)

MAXIMA = arrays(np.float32, 12, elements=st.floats(0, 1e4, width=32))


def test_the_worked_example() -> None:
    s = smoothing_scales(INPUTS, np.abs(WEIGHT).max(0), 0.5)
    np.testing.assert_allclose(s, [1.414214, 0.707107, 4.743416], atol=1e-6)
    smoothed = INPUTS / s
    np.testing.assert_allclose(smoothed, [2.828427, 0.707107, 1.897367], atol=1e-6)
    weight = WEIGHT * s
    maxima = numpy_int8.row_maxima(weight)
    np.testing.assert_allclose(maxima, [1.185854, 2.828427], atol=1e-6)
    steps = int8.steps(maxima)
    assert numpy_int8.quantize(weight, steps[:, None]).tolist() == [[76, -76, 127], [127, 3, -85]]
    np.testing.assert_allclose(int8.scales(maxima), [0.009337, 0.022271], atol=5e-7)
    static = int8.static(float(smoothed.max()), float(OUTPUTS.max()), steps)
    np.testing.assert_allclose(static.input, 44.901281, rtol=1e-6)
    np.testing.assert_allclose(static.output, 0.0393701, rtol=1e-6)
    np.testing.assert_allclose(static.accumulated, [0.005282, 0.012598], atol=5e-7)


@given(inputs=MAXIMA, columns=MAXIMA, alpha=st.floats(0, 1))
def test_scales_are_positive_and_finite(inputs: Values, columns: Values, alpha: float) -> None:
    s = smoothing_scales(inputs, columns, alpha)
    assert s.dtype == np.float32
    assert np.isfinite(s).all()
    assert (s > 0).all()
    assert (s[inputs == 0] == 1).all()


@given(inputs=MAXIMA, columns=MAXIMA)
def test_alpha_moves_outliers_from_activations_to_weights(inputs: Values, columns: Values) -> None:
    inputs, columns = inputs + 1, columns + 1
    none, half, all_of_it = (smoothing_scales(inputs, columns, alpha) for alpha in (0, 0.5, 1))
    np.testing.assert_allclose(inputs / all_of_it, 1, rtol=1e-5)
    np.testing.assert_allclose(columns * none, 1, rtol=1e-5)
    np.testing.assert_allclose(inputs / half, columns * half, rtol=1e-5)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_alpha_outside_its_range(alpha: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1") as caught:
        check_alpha(alpha)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    with pytest.raises(UsageError):
        smoothing_scales(INPUTS, INPUTS, alpha)


@given(weight=arrays(np.float32, 12, elements=st.floats(-4, 4, width=32)))
def test_a_divided_norm_gives_the_divided_output(weight: Values) -> None:
    s = np.linspace(0.1, 5, 12, dtype=np.float32)
    np.testing.assert_allclose(divide_norm("rms", weight, s) * s, weight, rtol=1e-6, atol=1e-30)
    np.testing.assert_array_equal(divide_norm("layer", weight, s), divide_norm("rms", weight, s))
    np.testing.assert_allclose((1 + divide_norm("rms_plus_one", weight, s)) * s, 1 + weight, atol=2e-6)


def _drawn(seed: int, tokens: int = 2000, outlier: float = 20.0) -> tuple[Values, Values]:
    """x [tokens, 48] with two loud channels, and W [64, 48]."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(0, 0.5, 48)).astype(np.float32)
    spread[:2] *= outlier
    return (
        (rng.normal(size=(tokens, 48)) * spread).astype(np.float32),
        rng.normal(0, 0.1, (64, 48)).astype(np.float32),
    )


def _rounded(x: Values, weight: Values, s: Values) -> Values:
    """y per token and per channel, by the definitions in int8.py."""
    integers, worth = numpy_int8.quantize_tokens(x / s)
    maxima = numpy_int8.row_maxima(weight * s)[:, None]
    rounded = numpy_int8.dequantize(numpy_int8.quantize(weight * s, int8.steps(maxima)), int8.scales(maxima))
    return numpy_int8.dequantize(integers, worth) @ rounded.T


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_that_is_expected_is_found(seed: int, alpha: float) -> None:
    x, weight = _drawn(seed)
    s = smoothing_scales(np.abs(x).max(0), np.abs(weight).max(0), alpha)
    squares = np.square(x).mean(0)
    expected = output_error(
        weight, s, squares, largest_of_token(np.abs(x).max(0), squares, s), int8.FORMAT, int8.FORMAT
    )
    found = float(np.square(_rounded(x, weight, s) - x @ weight.T).sum(-1).mean())
    assert expected == pytest.approx(found, rel=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_the_alpha_of_the_least_expected_error_is_nearly_the_best(seed: int) -> None:
    x, weight = _drawn(seed)
    inputs, squares = np.abs(x).max(0), np.square(x).mean(0)
    expected, found = [], []
    for alpha in CANDIDATES:
        s = smoothing_scales(inputs, np.abs(weight).max(0), alpha)
        expected.append(
            output_error(weight, s, squares, largest_of_token(inputs, squares, s), int8.FORMAT, int8.FORMAT)
        )
        found.append(float(np.square(_rounded(x, weight, s) - x @ weight.T).mean()))
    assert found[int(np.argmin(expected))] < 1.05 * min(found)
    assert max(found) > 1.2 * min(found)  # else any would do


def test_one_scale_for_a_text_is_of_its_largest_value() -> None:
    x, _ = _drawn(0)
    inputs, squares, s = np.abs(x).max(0), np.square(x).mean(0), np.full(48, 2, np.float32)
    assert largest_of_text(inputs, squares, s) == np.abs(x).max() / 2
    assert largest_of_token(inputs, squares, s) < largest_of_text(inputs, squares, s)
