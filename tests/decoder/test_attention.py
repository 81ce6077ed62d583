"""Attention over the static cache against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compiler.decoder.attention import alibi, alibi_slopes, attend, mask, store


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


def test_slopes_are_the_published_ones() -> None:
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(1) == [1 / 256]
    twelve = alibi_slopes(12)
    assert twelve[:8] == alibi_slopes(8)
    np.testing.assert_allclose(twelve[8:], [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert len(alibi_slopes(40)) == len(set(alibi_slopes(40))) == 40


def test_alibi_falls_with_the_distance_of_each_row() -> None:
    slopes = torch.tensor([0.5, 0.25])
    bias = alibi(slopes, torch.tensor([[3, 4], [0, 1]]), torch.arange(5), torch.float32)
    for row, head, query, key in np.ndindex(2, 2, 2, 5):
        distance = [[3, 4], [0, 1]][row][query] - key
        assert bias[row, head, query, key] == -slopes[head] * distance


def test_near_keys_are_not_rounded_far_into_a_long_row() -> None:
    far = alibi(torch.tensor([2**-0.5]), torch.tensor([[4000]]), torch.arange(4001), torch.bfloat16)
    exact = -(2**-0.5) * torch.arange(4000, -1, -1)
    assert (far[0, 0, 0, -8:].float() - exact[-8:]).abs().max() < 0.02
