"""Forms for one row compute what the general forms compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.decoder.moe import loop, route
from compiler.targets.inductor.floats import few_experts, linear


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    out=st.integers(1, 40),
    inner=st.integers(1, 40),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_linear_is_the_product(rows: int, out: int, inner: int, biased: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, 1, inner, dtype=torch.float64), torch.randn(out, inner, dtype=torch.float64)
    bias = torch.randn(out, dtype=torch.float64) if biased else None
    expected = x @ weight.T + (0 if bias is None else bias)
    found = linear(x.float(), weight.float(), None if bias is None else bias.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_one_row_is_summed_in_float32() -> None:
    """1 + 4096 * 2**-9 = 9; summed in bfloat16, 2**-9 would vanish next to 1."""
    x = torch.ones(1, 4097, dtype=torch.bfloat16)
    weight = torch.full((8, 4097), 2.0**-9, dtype=torch.bfloat16)
    weight[:, 0] = 1
    assert linear(x, weight).tolist() == [[9.0] * 8]


def test_the_dtype_of_x_is_kept() -> None:
    x, weight = torch.randn(1, 1, 16, dtype=torch.bfloat16), torch.randn(24, 16, dtype=torch.bfloat16)
    assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x, weight).shape == (1, 1, 24)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("renormalize", [False, True])
def test_gathered_experts_are_the_experts_of_the_loop(tokens: int, renormalize: bool) -> None:
    torch.manual_seed(tokens)
    x = torch.randn(tokens, 16)
    gate_up, down = torch.randn(4, 24, 16), torch.randn(4, 16, 12)
    chosen, share = route(torch.randn(tokens, 4), 2, renormalize=renormalize)
    expected = loop(x.double(), chosen, share, gate_up.double(), down.double(), "silu")
    found = few_experts(x, chosen, share, gate_up, down, "silu")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
