from __future__ import annotations

import numpy as np
import pytest

from compiler.quantization import awq
from compiler.quantization.format import Values, group_maxima
from compiler.quantization.formats import int4
from tests.quantization import numpy_int4

GROUP = 16
RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((24, 64), np.float32)
INPUTS = RNG.standard_normal((400, 64), np.float32)


def rounding(weight: Values) -> Values:
    scales = int4.scales(group_maxima(weight, GROUP))
    return numpy_int4.dequantize(numpy_int4.quantize(weight, scales), scales)


def with_outliers() -> Values:
    inputs = INPUTS.copy()
    inputs[:, [3, 20, 41]] *= 30
    return inputs


def output_error(difference: Values, inputs: Values) -> float:
    """What the searches estimate without inputs: mean over tokens of |x D^T|^2."""
    return float(np.square(inputs @ difference.T, dtype=np.float64).sum(-1).mean())


def searched(inputs: Values) -> tuple[Values, list[float]]:
    """The scales that are chosen, and the real errors of all candidates."""
    tried = awq.candidates(np.abs(inputs).mean(0))
    squares = np.square(inputs).mean(0)
    errors = [awq.scale_error(WEIGHT, scales, squares, int4.FORMAT, GROUP) for scales in tried]
    real = [output_error(rounding(WEIGHT * scales) / scales - WEIGHT, inputs) for scales in tried]
    return tried[int(np.argmin(errors))], real


def test_loud_channels_are_rounded_more_finely() -> None:
    scales, real = searched(with_outliers())
    assert min(scales[[3, 20, 41]]) > np.delete(scales, [3, 20, 41]).max()
    found = output_error(rounding(WEIGHT * scales) / scales - WEIGHT, with_outliers())
    assert found < 0.5 * real[0]  # where all scales are 1
    assert found < 1.1 * min(real)


@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_is_near_the_real_error(seed: int) -> None:
    """Also where channels have a mean, and go together."""
    rng = np.random.default_rng(seed)
    inputs = (rng.standard_normal((400, 64)) @ rng.standard_normal((64, 64)) / 8 + 0.3).astype(np.float32)
    squares, ones = np.square(inputs).mean(0), np.ones(64, np.float32)
    found = awq.scale_error(WEIGHT, ones, squares, int4.FORMAT, GROUP)
    assert found == pytest.approx(output_error(rounding(WEIGHT) - WEIGHT, inputs), rel=0.35)


def test_where_channels_are_alike_scales_are_one() -> None:
    tried = awq.candidates(np.full(64, 0.3, np.float32))
    np.testing.assert_allclose(tried, 1, rtol=1e-6)


def test_dead_channels_keep_their_scale() -> None:
    means = np.abs(with_outliers()).mean(0)
    means[7] = 0
    tried = awq.candidates(means)
    assert np.isfinite(tried).all()
    assert (tried > 0).all()
    assert (tried[:, 7] == 1).all()
    assert (awq.candidates(np.zeros(64, np.float32)) == 1).all()


def test_experts_are_searched_side_by_side() -> None:
    weight, squares = RNG.standard_normal((3, 8, 32), np.float32), RNG.uniform(0.5, 2, (3, 32)).astype(np.float32)
    scales = RNG.uniform(0.5, 2, (3, 32)).astype(np.float32)
    each = [awq.scale_error(weight[e], scales[e], squares[e], int4.FORMAT, GROUP) for e in range(3)]
    assert awq.scale_error(weight, scales, squares, int4.FORMAT, GROUP) == pytest.approx(sum(each))
