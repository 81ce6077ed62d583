"""Attention over the static cache against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compiler.decoder.attention import attend, mask, store


@pytest.mark.parametrize("window", [None, 1, 3])
def test_a_query_sees_itself_and_what_is_before_it(window: int | None) -> None:
    positions = torch.tensor([[4, 5], [0, 1]])
    bias = mask(positions, torch.arange(8), window, torch.float32)
    for row in range(2):
        for query in range(2):
            place = int(positions[row, query])
            first = 0 if window is None else max(place - window + 1, 0)
            seen = [key for key in range(8) if bias[row, 0, query, key] == 0]
            assert seen == list(range(first, place + 1))
    assert bias.isinf().sum() == (bias != 0).sum()


def test_tokens_are_stored_at_the_position_of_their_row() -> None:
    cache = torch.zeros(3, 6, 2, 4)
    new = torch.arange(1.0, 33.0).view(2, 2, 2, 4)
    store(cache, torch.tensor([[0, 1], [4, 5]]), new)
    assert torch.equal(cache[0, :2], new[0])
    assert torch.equal(cache[1, 4:], new[1])
    assert cache.count_nonzero() == new.numel()


@pytest.mark.parametrize("length", [1, 4])
def test_kv_heads_serve_consecutive_query_heads(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, length, 6, 8, generator=generator)
    k, v = (torch.randn(2, 9, 2, 8, generator=generator) for _ in range(2))
    positions = torch.tensor([[5], [2]]) + torch.arange(length)
    bias = mask(positions, torch.arange(9), None, torch.float32)
    expected = np.zeros(q.shape)
    for row, token, head in np.ndindex(2, length, 6):
        seen = int(positions[row, token]) + 1
        keys, values = (t[row, :seen, head // 3].double().numpy() for t in (k, v))
        scores = np.exp(keys @ q[row, token, head].double().numpy() / np.sqrt(8))
        expected[row, token, head] = scores / scores.sum() @ values
    np.testing.assert_allclose(attend(q, k, v, bias).numpy(), expected, atol=1e-5)
