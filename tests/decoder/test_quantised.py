"""The two quantised products against their definition in numpy, and the decoder on quantised rank files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compiler.decoder import quantised
from compiler.decoder.moe import loop
from compiler.decoder.quantised import QuantisedLinear
from compiler.quant import int8

GENERATOR = torch.Generator().manual_seed(4)
X = torch.randn((3, 5, 64), generator=GENERATOR)
WEIGHT = torch.randint(-127, 128, (24, 64), generator=GENERATOR, dtype=torch.int8)
SCALE = torch.rand(24, generator=GENERATOR) / 100
BIAS = torch.randn(24, generator=GENERATOR)


def test_tokens_are_quantised_as_in_numpy() -> None:
    integers, worth = quantised.quantise_tokens(X)
    expected, scales = int8.quantize_tokens(X.reshape(-1, 64).numpy())
    np.testing.assert_array_equal(integers.reshape(-1, 64).numpy(), expected)
    np.testing.assert_allclose(worth.reshape(-1, 1).numpy(), scales, rtol=1e-6)
    zeros, worth = quantised.quantise_tokens(torch.zeros(2, 8))
    assert not zeros.any()
    assert worth.isfinite().all()


@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_only_is_the_product_with_dequantised_weights(dtype: torch.dtype, bias: Tensor | None) -> None:
    x = X.to(dtype)
    found = quantised.weight_only(x, WEIGHT, SCALE, bias)
    expected = torch.nn.functional.linear(x.double(), WEIGHT.double() * SCALE[:, None].double())
    assert found.dtype == dtype
    torch.testing.assert_close(found, (expected + (0 if bias is None else bias)).to(dtype), rtol=1e-2, atol=1e-5)


def test_per_token_sums_integers_exactly() -> None:
    integers, worth = int8.quantize_tokens(X.reshape(-1, 64).numpy())
    product = integers.astype(np.int64) @ WEIGHT.numpy().astype(np.int64).T
    expected = product.astype(np.float32) * worth * SCALE.numpy() + BIAS.numpy()
    found = quantised.per_token(X, WEIGHT, SCALE, BIAS).reshape(-1, 24)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("linear", [quantised.weight_only, quantised.per_token])
def test_experts_are_those_of_dequantised_weights(linear: QuantisedLinear) -> None:
    gate_up = torch.randint(-127, 128, (4, 20, 16), generator=GENERATOR, dtype=torch.int8)
    down = torch.randint(-127, 128, (4, 16, 10), generator=GENERATOR, dtype=torch.int8)
    scales = torch.rand((4, 20), generator=GENERATOR) / 300, torch.rand((4, 16), generator=GENERATOR) / 300
    x = torch.randn((6, 16), generator=GENERATOR)
    chosen = torch.tensor([[0, 1], [1, 3], [0, 3], [3, 1], [1, 0], [0, 1]])  # nobody chooses 2
    share = torch.rand((6, 2), generator=GENERATOR)
    found = quantised.experts(linear)(x, chosen, share, gate_up, scales[0], down, scales[1], "silu")
    expected = loop(x, chosen, share, gate_up * scales[0][..., None], down * scales[1][..., None], "silu")
    assert (found - expected).norm() < 0.02 * expected.norm()
