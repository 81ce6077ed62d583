"""Rounding with feedback: never worse than to nearest, and better where inputs are correlated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.quantization import feedback
from compiler.quantization.format import nearest
from compiler.quantization.formats import int4
from compiler.quantization.parts import rounded_up

FORM = int4.FORMAT


def problem(seed: int, rows: int, width: int, tokens: int, rank: int, dead: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight [rows, width], and the second moments of `tokens` inputs of that rank; `dead` inputs are zero."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((tokens, rank)) @ rng.standard_normal((rank, width))
    x = (mixed + 0.1 * rng.standard_normal((tokens, width))) * np.exp(rng.standard_normal(width))
    x[:, :dead] = 0
    x = x.astype(np.float32)
    return rng.standard_normal((rows, width)).astype(np.float32), x.T @ x


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    groups=st.integers(1, 6),
    group=st.sampled_from([8, 32]),
    tokens=st.integers(1, 200),
    rank=st.integers(1, 8),
    dead=st.integers(0, 8),
)
def test_no_row_gets_worse(seed: int, rows: int, groups: int, group: int, tokens: int, rank: int, dead: int) -> None:
    weight, hessian = problem(seed, rows, groups * group, tokens, rank, dead)
    found = feedback.compensated(weight, hessian, FORM, group)
    scales, plain = found.scales, nearest(weight, feedback.group_scales(weight, FORM, group), FORM)
    before = feedback.quadratic_error(weight - plain, hessian)
    after = feedback.quadratic_error(weight - found.values, hessian)
    assert (after <= before * (1 + 1e-5) + 1e-6).all()
    assert found.error == pytest.approx(after.sum(), rel=1e-4, abs=1e-6)
    assert found.to_nearest == pytest.approx(before.sum(), rel=1e-4, abs=1e-6)
    # Values are integers of the format times their scales, also once they are stored in bfloat16.
    units = found.values.reshape(rows, groups, group) / scales[..., None]
    np.testing.assert_allclose(units, np.rint(units), atol=1e-4)
    assert units.min() > -8.5
    assert units.max() < 7.5
    bits = found.values.view(np.uint32)
    stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    np.testing.assert_array_equal(nearest(stored, scales, FORM), found.values)


def test_correlated_inputs_gain_most_of_the_error() -> None:
    weight, hessian = problem(0, 32, 256, 2000, 4, 0)
    found = feedback.compensated(weight, hessian, FORM, 32)
    assert found.error < 0.5 * found.to_nearest


def test_the_result_is_that_of_the_plain_recursion() -> None:
    """Algorithm 1 without blocks, column by column with an explicit inverse of what is left, in float64."""
    weight, hessian = problem(3, 5, 160, 500, 6, 0)
    result = feedback.compensated(weight, hessian, FORM, 32)
    scales = result.scales
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    h = hessian[np.ix_(order, order)].astype(np.float64)
    h += feedback.DAMPING * np.diagonal(hessian).mean() * np.eye(160)
    left, found = weight[:, order].astype(np.float64), np.empty((5, 160))
    each = np.repeat(scales, 32, -1)[:, order]
    for j in range(160):
        inverse = np.linalg.inv(h[j:, j:])
        found[:, j] = FORM.round((left[:, j] / each[:, j]).astype(np.float32)) * each[:, j]
        left[:, j:] -= ((left[:, j] - found[:, j]) / inverse[0, 0])[:, None] * inverse[0]
    plain = np.empty_like(found)
    plain[:, order] = found
    assert (result.values == plain.astype(np.float32)).mean() > 0.98


@pytest.mark.parametrize("hessian", [np.zeros((32, 32)), np.full((32, 32), np.nan)])
def test_without_inputs_weights_are_rounded_to_nearest(hessian: np.ndarray) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    found = feedback.compensated(weight, hessian.astype(np.float32), FORM, 32)
    np.testing.assert_array_equal(found.scales, feedback.group_scales(weight, FORM, 32))
    np.testing.assert_array_equal(found.values, nearest(weight, found.scales, FORM))


def test_scales_are_those_with_the_least_error_among_all_tried() -> None:
    """One at a time, by the definition; the largest weight of a group saturates where its column matters least."""
    rng = np.random.default_rng(5)
    weight, importance = rng.standard_normal((7, 64)).astype(np.float32), np.ones(64, np.float32)
    weight[:, [3, 40]], importance[3] = 4.0, 1e-3
    found = feedback.searched_scales(weight, importance, FORM, 32)
    largest = feedback.group_scales(weight, FORM, 32)
    for row, group in np.ndindex(found.shape):
        own = slice(32 * group, 32 * group + 32)

        def error(share: float, row: int = row, group: int = group, own: slice = own) -> float:
            scale = rounded_up(largest[row, group] * np.float32(share))
            off = weight[row, own] - np.clip(np.rint(weight[row, own] / scale), -8, 7) * scale
            return float((off.astype(np.float64) ** 2 * importance[own]).sum())

        errors = [error(share) for share in feedback.SHARES]
        assert error(float(found[row, group] / largest[row, group])) == pytest.approx(min(errors), rel=1e-4)
    assert (found[:, 0] < 0.8 * largest[:, 0]).all()
    assert (found[:, 1] > found[:, 0]).all()
