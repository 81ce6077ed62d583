"""Routing and both forms of the experts against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compiler.decoder.moe import Experts, gather, loop, route

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _case(tokens: int, experts: int, k: int, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(tokens)
    x, logits, gate_up, down = (
        torch.randn(size, generator=generator)
        for size in ((tokens, 12), (tokens, experts), (experts, 2 * 6, 12), (experts, 12, 6))
    )
    chosen, share = route(logits, k, renormalize=True)
    return x.to(dtype), chosen, share, gate_up.to(dtype), down.to(dtype)


@pytest.mark.parametrize("form", [loop, gather])
@given(tokens=st.integers(1, 9), experts=st.integers(2, 6), data=st.data())
def test_every_token_gets_the_sum_of_its_experts(form: Experts, tokens: int, experts: int, data: st.DataObject) -> None:
    inputs = _case(tokens, experts, data.draw(st.integers(1, experts)))
    x, chosen, share, gate_up, down = (t.double().numpy() for t in inputs)
    expected = np.zeros_like(x)
    for token, slot in np.ndindex(*chosen.shape):
        expert = int(chosen[token, slot])
        gate, up = np.split(gate_up[expert] @ x[token], 2)
        expected[token] += share[token, slot] * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
    np.testing.assert_allclose(form(*inputs, "silu").numpy(), expected, atol=1e-4)


def test_both_forms_agree_in_bfloat16() -> None:
    inputs = _case(16, 4, 2, torch.bfloat16)
    one, other = loop(*inputs, "silu"), gather(*inputs, "silu")
    assert one.dtype == other.dtype == torch.bfloat16
    torch.testing.assert_close(one, other, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("renormalize", [True, False])
def test_router_shares_are_probabilities(renormalize: bool) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    probability = logits.double().softmax(-1)[0]
    chosen, share = route(logits, 2, renormalize=renormalize)
    assert chosen.tolist() == [[1, 2]]
    of = probability[1] + probability[2] if renormalize else 1.0
    torch.testing.assert_close(share[0].double(), probability[1:3] / of, rtol=1e-6, atol=0.0)
