from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compiler.quantization.format import Values
from compiler.quantization.formats import fp8
from compiler.quantization.formats.fp8 import Bits


def _torch_decode(bits: Bits) -> Values:
    values: Values = torch.from_numpy(bits).view(torch.float8_e4m3fn).float().numpy()
    return values


def _torch_encode(values: Values) -> Bits:
    bits: Bits = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return bits


ALL = np.arange(256, dtype=np.uint8)


def test_every_code_is_worth_what_torch_says() -> None:
    np.testing.assert_array_equal(fp8.decode(ALL), _torch_decode(ALL))


def test_every_value_of_the_format_is_itself() -> None:
    assert fp8.encode(fp8.decode(ALL)).tolist() == ALL.tolist()


def test_halfway_and_its_neighbours_round_as_in_torch() -> None:
    finite = np.sort(fp8.decode(ALL)[np.isfinite(fp8.decode(ALL))])
    halves = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    values = np.concatenate([halves, np.nextafter(halves, np.float32(1e3)), np.nextafter(halves, np.float32(-1e3))])
    np.testing.assert_array_equal(fp8.encode(values), _torch_encode(values))


@given(arrays(np.float32, 64, elements=st.floats(-448, 448, width=32)))
def test_rounding_is_that_of_torch(values: Values) -> None:
    np.testing.assert_array_equal(fp8.encode(values), _torch_encode(values))


def test_every_bfloat16_in_range_rounds_as_in_torch() -> None:
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.abs(values) <= 448]
    np.testing.assert_array_equal(fp8.encode(values), _torch_encode(values))


def test_a_value_too_large_saturates_and_a_nan_stays_one() -> None:
    values = np.array([449, 1e30, np.inf, -np.inf, -464.5], np.float32)
    assert fp8.decode(fp8.encode(values)).tolist() == [448, 448, 448, -448, -448]
    assert fp8.encode(np.array([np.nan, -np.nan], np.float32)).tolist() == [0x7F, 0xFF]


@given(st.floats(0, 2.0**100, width=32))
def test_the_largest_of_a_tensor_is_the_largest_of_the_format(largest: float) -> None:
    scale = fp8.tensor_scale(largest)
    assert scale > 0
    assert np.float32(largest) / scale <= 448 * (1 + 1e-6)


def test_scales_of_rows_have_a_floor() -> None:
    scales = fp8.channel_scales(np.array([448, 4.48, 0], np.float32))
    np.testing.assert_allclose(scales, [1, 0.01, 1 / (448 * 512)], rtol=1e-6)
