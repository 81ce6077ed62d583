from __future__ import annotations

import numpy as np
import pytest

from compiler.quant import awq, int4
from compiler.quant.awq import Values

GROUP = 16
RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((24, 64), np.float32)
INPUTS = RNG.standard_normal((200, 64), np.float32)


def rounding(weight: Values) -> Values:
    scales = int4.scales(int4.group_maxima(weight, GROUP))
    return int4.dequantize(int4.quantize(weight, scales), scales)


def with_outliers() -> Values:
    inputs = INPUTS.copy()
    inputs[:, [3, 20, 41]] *= 30
    return inputs


def test_loud_channels_are_rounded_more_finely() -> None:
    inputs = with_outliers()
    found = awq.search_scales(WEIGHT, inputs, np.abs(inputs).mean(0), rounding)
    assert found.ratio > 0
    assert min(found.scales[[3, 20, 41]]) > np.delete(found.scales, [3, 20, 41]).max()
    plain = awq.output_error(rounding(WEIGHT) - WEIGHT, inputs)
    assert found.error < 0.5 * plain
    again = awq.output_error(rounding(WEIGHT * found.scales) / found.scales - WEIGHT, inputs)
    assert again == found.error


def test_where_nothing_helps_scales_are_one() -> None:
    found = awq.search_scales(WEIGHT, INPUTS, np.ones(64, np.float32), rounding)
    assert found.ratio == 0
    assert found.scales.tolist() == [1] * 64


def test_dead_channels_have_finite_scales() -> None:
    inputs = with_outliers()
    inputs[:, 7] = 0
    found = awq.search_scales(WEIGHT, inputs, np.abs(inputs).mean(0), rounding)
    assert np.isfinite(found.scales).all()
    assert (found.scales > 0).all()


def test_a_clip_makes_the_output_nearer_and_never_widens() -> None:
    weight = RNG.standard_t(3, (24, 64)).astype(np.float32)
    inputs = with_outliers()
    maxima = awq.clip(weight, inputs, GROUP)
    full = int4.group_maxima(weight, GROUP)
    assert (maxima <= full).all()
    assert (maxima >= awq.LEAST_CLIP * full).all()
    scales = int4.scales(maxima)
    clipped = int4.dequantize(int4.quantize(weight, scales), scales)
    plain = awq.output_error(rounding(weight) - weight, inputs)
    assert awq.output_error(clipped - weight, inputs) < 0.9 * plain


@pytest.mark.parametrize("rows", [1, 5])
def test_blocks_of_rows_are_clipped_as_the_whole(rows: int) -> None:
    whole = awq.clip(WEIGHT, INPUTS, GROUP)
    blocks = [awq.clip(WEIGHT[i : i + rows], INPUTS, GROUP) for i in range(0, 24, rows)]
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=1e-6)
