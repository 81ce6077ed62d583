"""Values that a cast or a damaged file makes infinite, against numpy on the values themselves."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from compiler.model.lazy import ITEMSIZE
from compiler.storage.files.cast import CASTABLE, cast_bits
from compiler.storage.files.range import FLOATS, LostValues, count_lost, first_lost, has_lost


def _finite(bits: np.ndarray, source: str, dtype: str) -> np.ndarray:
    """Whether each value is finite after the cast."""
    out, wide = np.empty(bits.size, f"u{ITEMSIZE[dtype]}"), np.empty(bits.size, np.uint64)
    cast_bits(bits, source, out, dtype)
    if dtype == "F64":
        return np.isfinite((bits if source == dtype else out).view(np.float64))
    cast_bits(out, dtype, wide, "F64")
    return np.isfinite(wide.view(np.float64))


@pytest.mark.parametrize(("source", "dtype"), list(product(CASTABLE, repeat=2)))
def test_the_limit_is_the_smallest_value_that_gets_lost(source: str, dtype: str) -> None:
    limit = first_lost(source, dtype)
    around = np.array([limit - 1, limit], f"u{ITEMSIZE[source]}")
    for sign in (0, 1 << 8 * ITEMSIZE[source] - 1):
        signed = around | around.dtype.type(sign)
        assert _finite(signed, source, dtype).tolist() == [True, False]
        assert [has_lost(signed[i : i + 1], source, dtype) for i in (0, 1)] == [False, True]


@pytest.mark.parametrize("source", FLOATS)
def test_nan_and_infinities_are_told_apart(source: str) -> None:
    nan = np.full(1, (1 << 8 * ITEMSIZE[source]) - 1, f"u{ITEMSIZE[source]}")
    assert count_lost(nan, source, source) == LostValues(nan=1)
    if source != "F8_E4M3":
        infinite = np.full(3, first_lost(source, source), f"u{ITEMSIZE[source]}")
        assert count_lost(infinite, source, source) == LostValues(infinite=3)


def test_finite_values_beyond_the_range_are_counted_with_the_largest() -> None:
    values = np.array([1.0, -70000.0, 1e6, np.nan, 65504.0, np.inf], np.float32)
    found = count_lost(values.view(np.uint32), "F32", "F16")
    assert found == LostValues(nan=1, infinite=1, beyond=2, largest=1e6)
    assert found.text("float16") == "1 NaN, 1 infinite, 2 values beyond float16 (up to 1e+06)"


@pytest.mark.parametrize("at", [0, 1 << 20, (1 << 21) - 1])
def test_one_value_anywhere_is_found(at: int) -> None:
    bits = np.zeros(1 << 21, np.uint16)
    assert not has_lost(bits, "BF16", "BF16")
    bits[at] = 0xFF80
    assert has_lost(bits, "BF16", "BF16")
    assert not has_lost(bits[:0], "BF16", "BF16")
