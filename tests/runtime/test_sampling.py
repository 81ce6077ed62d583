"""Sampling against straightforward float64 definitions of each step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compiler.errors import NumericsError
from compiler.runtime.params import GenerationParams
from compiler.runtime.sampling import Sampler, draw, keep_top_k, keep_top_p, log_normalizer, most_likely, penalize

# Multiples of 1/8 make ties likely.
ROWS = st.integers(2, 40).flatmap(
    lambda n: hnp.arrays(np.float32, n, elements=st.integers(-80, 80).map(lambda i: np.float32(i / 8)))
)


def _softmax(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shares = np.exp(scores.astype(np.float64) - scores.max())
    softmax: npt.NDArray[np.float64] = shares / shares.sum()
    return softmax


@given(ROWS, st.integers(1, 45))
def test_top_k_keeps_the_k_largest_and_their_equals(row: npt.NDArray[np.float32], k: int) -> None:
    kept = np.isfinite(keep_top_k(row, k))
    larger = np.array([(row > score).sum() for score in row])
    assert (kept == (larger < k)).all()


@given(ROWS, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_likeliest_set_that_reaches_p(row: npt.NDArray[np.float32], p: float) -> None:
    shares = _softmax(row)
    kept = np.isfinite(keep_top_p(row, p))
    assert shares[kept].sum() >= p - 1e-6
    # Without the least likely kept token (and its equals) the rest would not reach p.
    assert shares[kept & (row > row[kept].min())].sum() < p + 1e-6
    assert not kept.all() or shares[row > row.min()].sum() < p + 1e-6
    assert (row[kept].min() > row[~kept]).all()


def test_top_p_of_a_wide_distribution_goes_beyond_the_first_candidates() -> None:
    row = np.linspace(0, 0.01, 5000, dtype=np.float32)
    assert abs(int(np.isfinite(keep_top_p(row, 0.5)).sum()) - 2500) < 20


@given(ROWS, st.floats(0.25, 4.0), st.data())
def test_the_penalty_makes_seen_tokens_less_likely_when_above_one(
    row: npt.NDArray[np.float32], penalty: float, data: st.DataObject
) -> None:
    seen = data.draw(hnp.arrays(np.bool_, row.size))
    penalized = penalize(row, seen, penalty)
    assert (penalized[~seen] == row[~seen]).all()
    for before, after in zip(row[seen], penalized[seen], strict=True):
        expected = before / penalty if before > 0 else before * penalty
        assert after == pytest.approx(expected, rel=1e-6)


@given(ROWS, st.floats(0, 1, exclude_max=True))
def test_draw_inverts_the_cumulative_distribution(row: npt.NDArray[np.float32], uniform: float) -> None:
    scores = keep_top_k(row, 3)
    token = draw(scores, uniform)
    assert np.isfinite(scores[token])
    cumulative = np.cumsum(_softmax(scores))
    assert cumulative[token] > uniform - 1e-6
    assert token == 0 or cumulative[token - 1] <= uniform + 1e-6


def test_draws_follow_the_distribution() -> None:
    logits = np.array([1.0, 0.0, -1.0, 2.0, -np.inf], dtype=np.float32)
    sampler = Sampler(GenerationParams(temperature=0.7, seed=5), 5, [])
    counts = np.bincount([sampler.choose(logits)[0] for _ in range(20000)], minlength=5)
    expected = _softmax(logits / np.float32(0.7)) * 20000
    assert counts[4] == 0
    chi_squared = ((counts - expected)[:4] ** 2 / expected[:4]).sum()
    assert chi_squared < 16.3  # 3 degrees of freedom, one in a thousand


@given(ROWS, st.integers(0, 5))
def test_log_probabilities_are_those_of_the_model_and_not_of_the_draw(row: npt.NDArray[np.float32], top: int) -> None:
    expected = np.log(_softmax(row))
    params = GenerationParams(temperature=2.0, top_k=2, repetition_penalty=1.5, seed=1, top_log_probs=top)
    token, log_prob, best = Sampler(params, row.size, [0]).choose(row)
    assert log_prob == pytest.approx(expected[token], abs=1e-5)
    assert [value for _, value in best] == pytest.approx(sorted(expected, reverse=True)[:top], abs=1e-5)
    assert all(expected[i] == pytest.approx(value, abs=1e-5) for i, value in best)


@given(ROWS)
def test_greedy_takes_the_likeliest_and_a_small_temperature_nearly_always(row: npt.NDArray[np.float32]) -> None:
    assert Sampler(GenerationParams(), row.size, []).choose(row)[0] == row.argmax()
    token, _, _ = Sampler(GenerationParams(temperature=1e-9, seed=3), row.size, []).choose(row)
    assert row[token] == row.max()


def test_a_seed_repeats_a_row_and_no_seed_does_not() -> None:
    logits = np.zeros(1000, dtype=np.float32)

    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(GenerationParams(temperature=1.0, seed=seed), 1000, [])
        return [sampler.choose(logits)[0] for _ in range(20)]

    assert tokens(7) == tokens(7)
    assert tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)


def test_generated_tokens_count_as_seen() -> None:
    logits = np.array([2.0, 1.9, 0.0], dtype=np.float32)
    sampler = Sampler(GenerationParams(repetition_penalty=2.0), 3, [])
    assert [sampler.choose(logits)[0] for _ in range(2)] == [0, 1]
    assert Sampler(GenerationParams(repetition_penalty=2.0), 3, [0]).choose(logits)[0] == 1


def test_penalties_count_tokens_of_the_answer_only() -> None:
    logits = np.array([2.0, 1.9, 1.0], dtype=np.float32)

    def tokens(**penalty: float) -> list[int]:
        sampler = Sampler(GenerationParams(**penalty), 3, [1])  # type: ignore[arg-type]
        return [sampler.choose(logits)[0] for _ in range(4)]

    assert tokens() == [0, 0, 0, 0]
    assert tokens(presence_penalty=0.2) == [0, 1, 0, 0]
    assert tokens(frequency_penalty=0.2) == [0, 1, 0, 1]
    assert tokens(frequency_penalty=-0.2) == [0, 0, 0, 0]


@pytest.mark.parametrize("bad", [[0.0, np.nan], [-np.inf, -np.inf], [np.inf, 0.0]])
def test_logits_without_a_largest_are_an_error(bad: list[float]) -> None:
    with pytest.raises(NumericsError, match="NaN or infinity"):
        Sampler(GenerationParams(), 2, []).choose(np.array(bad, dtype=np.float32))


def test_the_normalizer_survives_large_logits() -> None:
    row = np.array([1000.0, 999.0], dtype=np.float32)
    assert log_normalizer(row) == pytest.approx(1000 + np.log1p(np.exp(-1)))
    assert most_likely(row, 5, log_normalizer(row))[0][0] == 0
