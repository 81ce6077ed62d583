"""Routing and both forms of the experts against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compiler.decoder.moe import Experts, gather, loop, route, scaled_inputs
from tests.model.configs import config

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Biases = tuple[Tensor, Tensor]


def _case(tokens: int, experts: int, k: int, dtype: torch.dtype = torch.float32) -> tuple[Inputs, Biases]:
    generator = torch.Generator().manual_seed(tokens)
    x, logits, gate_up, down, first, second = (
        torch.randn(size, generator=generator)
        for size in ((tokens, 12), (tokens, experts), (experts, 2 * 6, 12), (experts, 12, 6), (experts, 12),
                     (experts, 12))
    )  # fmt: skip
    chosen, share = route(config(experts_per_token=k), logits, None)
    return (x.to(dtype), chosen, share, gate_up.to(dtype), down.to(dtype)), (first.to(dtype), second.to(dtype))


@pytest.mark.parametrize("form", [loop, gather])
@given(tokens=st.integers(1, 9), experts=st.integers(2, 6), data=st.data())
def test_every_token_gets_the_sum_of_its_experts(form: Experts, tokens: int, experts: int, data: st.DataObject) -> None:
    inputs, biases = _case(tokens, experts, data.draw(st.integers(1, experts)))
    biased = data.draw(st.booleans())
    x, chosen, share, gate_up, down = (t.double().numpy() for t in inputs)
    first, second = (t.double().numpy() * biased for t in biases)
    expected = np.zeros_like(x)
    for token, slot in np.ndindex(*chosen.shape):
        expert = int(chosen[token, slot])
        gate, up = np.split(gate_up[expert] @ x[token] + first[expert], 2)
        y = down[expert] @ (gate / (1 + np.exp(-gate)) * up) + second[expert]
        expected[token] += share[token, slot] * y
    np.testing.assert_allclose(form(*inputs, "silu", biases if biased else None).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("form", [loop, gather])
def test_a_clamped_gate_is_at_most_seven_and_up_within_it_plus_one(form: Experts) -> None:
    inputs, _ = _case(5, 3, 2)
    x, chosen, share, gate_up, down = (t.double().numpy() for t in inputs)
    expected = np.zeros_like(x)
    for token, slot in np.ndindex(*chosen.shape):
        gate, up = np.split(gate_up[int(chosen[token, slot])] @ x[token] * 4, 2)
        assert (gate > 7).any() or token
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        inner = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
        expected[token] += share[token, slot] * (down[int(chosen[token, slot])] @ inner)
    found = form(inputs[0], inputs[1], inputs[2], 4 * inputs[3], inputs[4], "clamped_swiglu", None)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-3)


def test_both_forms_agree_in_bfloat16() -> None:
    inputs, biases = _case(16, 4, 2, torch.bfloat16)
    one, other = loop(*inputs, "silu", biases), gather(*inputs, "silu", biases)
    assert one.dtype == other.dtype == torch.bfloat16
    torch.testing.assert_close(one, other, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("renormalize", [True, False])
def test_router_shares_are_probabilities(renormalize: bool) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    probability = logits.double().softmax(-1)[0]
    chosen, share = route(config(experts_per_token=2, renormalize_experts=renormalize), logits, None)
    assert chosen.tolist() == [[1, 2]]
    of = probability[1] + probability[2] if renormalize else 1.0
    torch.testing.assert_close(share[0].double(), probability[1:3] / of, rtol=1e-6, atol=0.0)


def test_experts_are_those_of_the_groups_with_the_best_expert() -> None:
    limited = config(
        experts_per_token=2, expert_groups=3, expert_groups_used=1, renormalize_experts=False, routed_scale=16.0
    )
    logits = torch.tensor([[2.0, 0.0, 3.0, -9.0, 2.9, 2.8]])
    chosen, share = route(limited, logits, None)
    assert chosen.tolist() == [[2, 3]]  # not 4, which is better than 3, but in another group
    torch.testing.assert_close(share[0], 16 * logits.softmax(-1)[0, 2:4])


def test_a_correction_changes_the_choice_and_not_the_shares() -> None:
    corrected = config(router="corrected_sigmoid", experts_per_token=2, expert_groups=2, expert_groups_used=1)
    logits = torch.tensor([[4.0, -4.0, -4.0, 1.0, 0.9, 0.8]])
    score = logits.sigmoid()[0]
    # The two best of the second group have the larger sum, though the best of all is in the first.
    assert route(corrected, logits, torch.zeros(6))[0].tolist() == [[3, 4]]
    chosen, share = route(corrected, logits, torch.tensor([0.0, 0, 0, 0, 0, 1.0]))
    assert chosen.tolist() == [[5, 3]]
    torch.testing.assert_close(share[0], score[[5, 3]] / score[[5, 3]].sum())


def test_shares_of_inputs_multiply_what_an_expert_reads() -> None:
    kind = config(router="sigmoid_of_input", experts_per_token=2, renormalize_experts=False)
    (x, _, _, gate_up, down), _ = _case(4, 3, 2)
    logits = torch.tensor([[50.0, 60.0, 40.0]]).expand(4, 3)  # sigmoids of 1 in float32: the logits choose
    chosen, share = route(kind, logits, None)
    assert chosen[0].tolist() == [1, 0]
    share = torch.tensor([[0.5, 0.25]]).expand(4, 2)
    rows, expert, ones = scaled_inputs(x, chosen, share)
    found = loop(rows, expert, ones, gate_up, down, "silu").unflatten(0, (4, 2)).sum(1)
    one = torch.ones(4, 1)
    expected = sum(
        loop(part * x, chosen[:, [i]], one, gate_up, down, "silu") for i, part in enumerate((0.5, 0.25))
    )  # fmt: skip
    torch.testing.assert_close(found, expected)
