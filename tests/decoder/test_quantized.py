"""The quantized products against their definition in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compiler.decoder import quantized
from compiler.decoder.moe import loop
from compiler.decoder.quantized import QuantizedLinear, QuantizedWeight
from compiler.machine import features
from compiler.quantization.formats import fp8, int8
from tests.quantization import numpy_int8

PER_TOKEN, FP8_PER_TOKEN = quantized.definition("per_token"), quantized.definition("fp8_per_token")
GENERATOR = torch.Generator().manual_seed(4)
X = torch.randn((3, 5, 64), generator=GENERATOR)
WEIGHT = torch.randint(-127, 128, (24, 64), generator=GENERATOR, dtype=torch.int8)
SCALE = torch.rand(24, generator=GENERATOR) / 100
BIAS = torch.randn(24, generator=GENERATOR)
INT8 = QuantizedWeight(WEIGHT, SCALE)
FP8 = QuantizedWeight((torch.randn((24, 64), generator=GENERATOR) * 100).to(torch.float8_e4m3fn), SCALE)
FIXED = torch.tensor([0.02])
"""Some of X are beyond 127 of it."""


def test_tokens_are_quantized_as_in_numpy() -> None:
    integers, worth = int8.tokens(X)
    expected, scales = numpy_int8.quantize_tokens(X.reshape(-1, 64).numpy())
    np.testing.assert_array_equal(integers.reshape(-1, 64).numpy(), expected)
    np.testing.assert_allclose(worth.reshape(-1, 1).numpy(), scales, rtol=1e-6)
    zeros, worth = int8.tokens(torch.zeros(2, 8))
    assert not zeros.any()
    assert worth.isfinite().all()


@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_only_is_the_product_with_dequantized_weights(dtype: torch.dtype, bias: Tensor | None) -> None:
    x = X.to(dtype)
    found = quantized.weight_only(x, INT8, bias)
    expected = torch.nn.functional.linear(x.double(), WEIGHT.double() * SCALE[:, None].double())
    assert found.dtype == dtype
    torch.testing.assert_close(found, (expected + (0 if bias is None else bias)).to(dtype), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("fixed", [None, FIXED], ids=["per token", "per tensor"])
def test_integers_are_summed_exactly(fixed: Tensor | None) -> None:
    x = X.reshape(-1, 64).numpy()
    integers, worth = numpy_int8.quantize_tokens(x)
    if fixed is not None:
        integers, worth = numpy_int8.quantize(x, (1 / fixed).numpy()), fixed.numpy()
        assert (np.abs(x) > 127 * worth).any()
    product = integers.astype(np.int64) @ WEIGHT.numpy().astype(np.int64).T
    expected = product.astype(np.float32) * worth * SCALE.numpy() + BIAS.numpy()
    found = PER_TOKEN(X, QuantizedWeight(WEIGHT, SCALE, fixed), BIAS).reshape(-1, 24)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fixed", [None, FIXED / 5], ids=["per token", "per tensor"])
def test_float8_is_summed_in_float32(fixed: Tensor | None) -> None:
    x = X.reshape(-1, 64).numpy()
    worth = fp8.channel_scales(numpy_int8.row_maxima(x))[:, None] if fixed is None else fixed.numpy()
    rounded = fp8.decode(fp8.encode(x * (np.float32(1) / worth)))
    assert (fixed is not None) == (np.abs(x) > 448 * worth * 1.001).any()
    product = rounded.astype(np.float64) @ FP8.values.double().numpy().T
    expected = product * worth * SCALE.numpy() + BIAS.numpy()
    found = FP8_PER_TOKEN(X, QuantizedWeight(FP8.values, SCALE, fixed), BIAS).reshape(-1, 24)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("fixed", [None, FIXED], ids=["per token", "per tensor"])
@pytest.mark.parametrize(("linear", "weight"), [(PER_TOKEN, INT8), (FP8_PER_TOKEN, FP8)])
def test_a_token_that_is_not_finite_spoils_no_other(
    linear: QuantizedLinear, weight: QuantizedWeight, fixed: Tensor | None, bad: float
) -> None:
    x = X[0].clone()
    x[1, 3] = bad
    found = linear(x, QuantizedWeight(weight.values, weight.scale, fixed), None)
    assert found[1].isnan().all()
    assert found[[0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize("fixed", [None, torch.tensor([4 / 127])], ids=["per token", "per tensor"])
@pytest.mark.parametrize("linear", [quantized.weight_only, PER_TOKEN])
def test_experts_are_those_of_dequantized_weights(linear: QuantizedLinear, fixed: Tensor | None) -> None:
    gate_up = torch.randint(-127, 128, (4, 20, 16), generator=GENERATOR, dtype=torch.int8)
    down = torch.randint(-127, 128, (4, 16, 10), generator=GENERATOR, dtype=torch.int8)
    scales = torch.rand((4, 20), generator=GENERATOR) / 300, torch.rand((4, 16), generator=GENERATOR) / 300
    x = torch.randn((6, 16), generator=GENERATOR)
    chosen = torch.tensor([[0, 1], [1, 3], [0, 3], [3, 1], [1, 0], [0, 1]])  # nobody chooses 2
    share = torch.rand((6, 2), generator=GENERATOR)
    inner = None if fixed is None else fixed / 2  # what goes into `down` is smaller
    both = QuantizedWeight(gate_up, scales[0], fixed), QuantizedWeight(down, scales[1], inner)
    found = quantized.experts(linear)(x, chosen, share, *both, "silu", None)
    expected = loop(x, chosen, share, gate_up * scales[0][..., None], down * scales[1][..., None], "silu")
    assert (found - expected).norm() < (0.02 if fixed is None else 0.05) * expected.norm()


@pytest.mark.parametrize("flags", [frozenset(), frozenset({"avx512_vnni"})])
def test_integers_are_summed_exactly_on_every_cpu(flags: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the largest magnitudes, whose sums leave 24 bits; by the library's function if this CPU has it exact."""
    if not flags <= features():
        pytest.skip("this CPU has no such integers")
    monkeypatch.setattr(quantized, "features", lambda: flags)
    for x_value, w_value in ((127, 127), (-128, 127), (-128, -128)):
        x, weight = torch.full((33, 3000), x_value, dtype=torch.int8), torch.full((32, 3000), w_value, dtype=torch.int8)
        assert (quantized.integer_product(x, weight) == x_value * w_value * 3000).all()
    x, weight = (torch.randint(-128, 128, (rows, 2100), dtype=torch.int8) for rows in (5, 40))
    found = quantized.integer_product(x, weight)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), x.long() @ weight.long().T)
