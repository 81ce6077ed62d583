"""Attention over the static cache against sums written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compiler.decoder.attention import (
    Cache,
    Scores,
    alibi,
    alibi_slopes,
    attend,
    cache_dtype,
    dequantize,
    mask,
    quantize,
    store,
)
from compiler.quantization.formats import fp8
from compiler.quantization.schemes import CACHES


@pytest.mark.parametrize("window", [None, 1, 3])
def test_a_query_sees_itself_and_what_is_before_it(window: int | None) -> None:
    positions = torch.tensor([[4, 5], [0, 1]])
    bias = mask(positions, torch.arange(8), Scores(window), torch.float32)
    for row in range(2):
        for query in range(2):
            place = int(positions[row, query])
            first = 0 if window is None else max(place - window + 1, 0)
            seen = [key for key in range(8) if bias[row, 0, query, key] == 0]
            assert seen == list(range(first, place + 1))
    assert bias.isinf().sum() == (bias != 0).sum()


def test_tokens_are_stored_at_the_position_of_their_row() -> None:
    cache = Cache(torch.zeros(3, 6, 2, 4), torch.zeros(3, 6, 2, 4))
    new = torch.arange(1.0, 33.0).view(2, 2, 2, 4)
    store(cache, torch.tensor([[0, 1], [4, 5]]), new, -new)
    for stored, expected in ((cache.k, new), (cache.v, -new)):
        assert torch.equal(stored[0, :2], expected[0])
        assert torch.equal(stored[1, 4:], expected[1])
        assert stored.count_nonzero() == new.numel()


@pytest.mark.parametrize("length", [1, 4])
def test_kv_heads_serve_consecutive_query_heads(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, length, 6, 8, generator=generator)
    k, v = (torch.randn(2, 9, 2, 8, generator=generator) for _ in range(2))
    positions = torch.tensor([[5], [2]]) + torch.arange(length)
    expected = np.zeros(q.shape)
    for row, token, head in np.ndindex(2, length, 6):
        seen = int(positions[row, token]) + 1
        keys, values = (t[row, :seen, head // 3].double().numpy() for t in (k, v))
        scores = np.exp(keys @ q[row, token, head].double().numpy() / np.sqrt(8))
        expected[row, token, head] = scores / scores.sum() @ values
    found = attend(q, Cache(k, v), positions, torch.arange(9), Scores())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@given(st.sampled_from(sorted(CACHES)), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**16), st.booleans())
def test_a_quantized_cache_is_off_by_half_a_unit_at_most(
    form: str, heads: int, dim: int, seed: int, half: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn((3, heads, dim), generator=g) * 10.0 ** torch.randint(-3, 3, (heads, 1), generator=g)
    largest = x.abs().amax((0, 2))
    top = 127 if form == "int8" else 448
    scale = largest / (top * (0.5 if half else 1))
    kept = quantize(x, scale, cache_dtype(form))
    found = dequantize(kept, scale, torch.float32)
    cut = x.clamp(-scale[:, None] * top, scale[:, None] * top)
    # Of float8, 3 bits of fraction: half a unit is a sixteenth, and never less than half of the smallest number.
    unit = scale[:, None] / 2 if form == "int8" else (cut.abs() / 16).maximum(scale[:, None] * 2**-10)
    assert ((found - cut).abs() <= unit * 1.0001).all()
    assert torch.equal(quantize(found, scale, cache_dtype(form)).float(), kept.float())  # what was kept is kept again
    if form == "fp8":
        bits = fp8.encode((x / scale[:, None]).numpy())
        assert np.array_equal(kept.view(torch.uint8).numpy(), bits)


@pytest.mark.parametrize("form", CACHES)
def test_attention_over_a_quantized_cache_is_over_what_it_holds(form: str) -> None:
    g = torch.Generator().manual_seed(1)
    k, v, q = (torch.randn((2, 7, heads, 8), generator=g) for heads in (2, 2, 6))
    k[:, :, 1] *= 50
    k_scale, v_scale = torch.tensor([0.03, 1.5]), torch.tensor([0.02, 0.03])
    empty = torch.zeros((3, 9, 2, 8), dtype=cache_dtype(form))
    cache = Cache(empty, empty.clone(), k_scale, v_scale)
    positions, keys = torch.arange(7).expand(2, 7), torch.arange(7)
    store(cache, positions, k, v)
    held = Cache(*(dequantize(part[:, :8], s, torch.float32) for part, s in ((cache.k, k_scale), (cache.v, v_scale))))
    found = attend(q, cache, positions, keys, Scores(4))
    assert torch.equal(found, attend(q, held, positions, keys, Scores(4)))
    exact = attend(q, Cache(k, v), positions, keys, Scores(4))
    assert 0 < (found - exact).norm() < 0.15 * exact.norm()


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_query_sees_its_own_chunk_only(chunk: int) -> None:
    bias = mask(torch.tensor([[0, 2, 3, 7]]), torch.arange(8), Scores(chunk=chunk), torch.float32)
    for query, place in enumerate((0, 2, 3, 7)):
        seen = [key for key in range(8) if bias[0, 0, query, key] == 0]
        assert seen == [key for key in range(place + 1) if key // chunk == place // chunk]


@given(st.floats(0.05, 2), st.sampled_from([0.0, 1.5, 30.0]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_scores_are_scaled_capped_and_share_the_sum_with_a_sink(
    scale: float, cap: float, sunk: bool, sloped: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 3, 6, 8, generator=generator)
    k, v = (torch.randn(1, 9, 2, size, generator=generator) for size in (8, 5))
    positions = torch.tensor([[2, 5, 8]])
    sinks, slopes = torch.randn(6, generator=generator), torch.rand(6, generator=generator)
    expected = np.zeros((1, 3, 6, 5))
    for token, head in np.ndindex(3, 6):
        place = int(positions[0, token])
        score = k[0, : place + 1, head // 3].double().numpy() @ q[0, token, head].double().numpy() * scale
        score = cap * np.tanh(score / cap) if cap else score
        score = score - float(slopes[head]) * (place - np.arange(place + 1)) * sloped
        weight = np.exp(score)
        weight /= weight.sum() + np.exp(float(sinks[head])) * sunk
        expected[0, token, head] = weight @ v[0, : place + 1, head // 3].double().numpy()
    scores = Scores(scale=scale, softcap=cap, slopes=slopes if sloped else None, sinks=sinks if sunk else None)
    found = attend(q, Cache(k, v), positions, torch.arange(9), scores)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


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
