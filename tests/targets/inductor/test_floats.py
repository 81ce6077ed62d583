"""Forms for few tokens compute what the general forms compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.decoder.moe import loop, route
from compiler.targets.inductor.floats import few_experts, linear
from tests.model.configs import config

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 1 / 128, torch.float16: 1 / 1024}
"""With the error that rounding to them may make."""


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    out=st.integers(1, 40),
    inner=st.integers(1, 40),
    biased=st.booleans(),
    dtype=st.sampled_from(sorted(DTYPES, key=str)),
    seed=st.integers(0, 99),
)
def test_linear_is_the_product(rows: int, out: int, inner: int, biased: bool, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, 1, inner).to(dtype), torch.randn(out, inner).to(dtype)
    bias = torch.randn(out).to(dtype) if biased else None
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    found = linear(x, weight, bias)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype])


def test_one_row_is_summed_in_float32() -> None:
    """1 + 4096 * 2**-9 = 9; summed in bfloat16, 2**-9 would vanish next to 1."""
    x = torch.ones(1, 4097, dtype=torch.bfloat16)
    weight = torch.full((8, 4097), 2.0**-9, dtype=torch.bfloat16)
    weight[:, 0] = 1
    assert linear(x, weight).tolist() == [[9.0] * 8]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("renormalize", [False, True])
def test_experts_of_few_tokens_are_the_experts_of_the_loop(tokens: int, renormalize: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    x = torch.randn(tokens, 16).to(dtype)
    gate_up, down = torch.randn(4, 24, 16).to(dtype), torch.randn(4, 16, 12).to(dtype)
    routed = config(experts=4, experts_per_token=2, renormalize_experts=renormalize)
    chosen, share = route(routed, torch.randn(tokens, 4), None)
    biases = torch.randn(4, 24).to(dtype), torch.randn(4, 16).to(dtype)
    expected = loop(
        x.double(), chosen, share, gate_up.double(), down.double(), "silu", (biases[0].double(), biases[1].double())
    )
    found = few_experts(x, chosen, share, gate_up, down, "silu", biases)
    assert (found.double() - expected).norm() < 2 * DTYPES[dtype] * expected.norm()
