from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.model.lazy import ITEMSIZE
from compiler.storage.files.cast import CASTABLE, cast_bits

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WIDE = {"F64": np.uint64, "F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}


def by_torch(bits: np.ndarray, source: str, target: str) -> torch.Tensor:
    signed = torch.from_numpy(bits.view(f"i{bits.itemsize}"))
    return signed.view(TORCH[source]).to(TORCH[target])


def check(bits: np.ndarray, source: str, target: str) -> None:
    out = np.empty(bits.size, WIDE[target])
    cast_bits(bits, source, out, target)
    expected = by_torch(bits, source, target)
    found = torch.from_numpy(out.view(f"i{ITEMSIZE[target]}")).view(TORCH[target])
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    assert torch.equal(found[~nan], expected[~nan])
    assert torch.equal(found[~nan].signbit(), expected[~nan].signbit())


@pytest.mark.parametrize(("source", "target"), [("F16", "F32"), ("BF16", "F32"), ("F16", "BF16"), ("BF16", "F16")])
def test_every_16_bit_pattern(source: str, target: str) -> None:
    check(np.arange(1 << 16, dtype=np.uint16), source, target)


@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_every_upper_half_with_the_lower_halves_that_decide_rounding(target: str) -> None:
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    lower = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    check((upper | lower).reshape(-1), "F32", target)


@pytest.mark.parametrize(("source", "target"), list(permutations(CASTABLE, 2)))
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 70_000))
def test_random_bits(source: str, target: str, seed: int, size: int) -> None:
    bits = np.frombuffer(np.random.default_rng(seed).bytes(size * ITEMSIZE[source]), WIDE[source]).copy()
    check(bits, source, target)


@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
def test_float64_beside_the_ties_of_the_narrow_ones(target: str) -> None:
    """Rounded twice, as by torch."""
    ties = 1 + np.arange(64) * 2.0**-12
    values = np.concatenate([scale * (ties + nudge) for scale in (1.0, -3e4) for nudge in (0, 2.0**-40, -(2.0**-40))])
    check(values.view(np.uint64), "F64", target)
