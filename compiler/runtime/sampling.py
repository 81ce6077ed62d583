"""Sampling: one row of logits -> one token. Pure functions of arrays; filtered scores are -inf.

Both filters keep all tokens whose score reaches a threshold, so equal scores are treated alike, and the result does not
depend on a sorting order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from compiler.errors import NumericsError
from compiler.runtime.params import GenerationParams

Row: TypeAlias = npt.NDArray[np.float32]

_FIRST_CANDIDATES = 256


def log_normalizer(logits: Row) -> float:
    """Logarithm of the sum of exp(logits): a logit minus this is the token's log probability."""
    import torch

    # By torch, whose exponentials use all threads: every token of every row needs this.
    return float(torch.from_numpy(logits).logsumexp(0))


def penalize(logits: Row, seen: npt.NDArray[np.bool_], penalty: float) -> Row:
    """Penalize `seen` tokens: positive logits / penalty, negative * penalty (CTRL, Keskar et al. 2019, section 4.1)."""
    if penalty == 1.0:
        return logits
    penalized = np.where(logits > 0, logits / np.float32(penalty), logits * np.float32(penalty))
    return np.where(seen, penalized, logits)


def discourage(logits: Row, counts: npt.NDArray[np.int32], presence: float, frequency: float) -> Row:
    """Logits less `presence` for tokens with a count in the answer, and less `frequency` times their count.

    Source: the OpenAI API's reference, parameters presence_penalty and frequency_penalty.
    """
    if presence == 0.0 and frequency == 0.0:
        return logits
    return logits - ((counts > 0) * np.float32(presence) + counts * np.float32(frequency))


def keep_top_k(scores: Row, k: int) -> Row:
    """Scores with only the k largest kept, and those equal to the k-th; 0 keeps all."""
    if k == 0 or k >= scores.size:
        return scores
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    return np.where(scores >= threshold, scores, np.float32(-np.inf))


def keep_top_p(scores: Row, p: float) -> Row:
    """Scores with only the smallest set of likeliest tokens kept whose probabilities reach `p`, and ties of its end."""
    if p >= 1.0:
        return scores
    shares = np.exp(scores - np.float32(scores.max())).astype(np.float64)
    wanted = p * shares.sum()
    # Sorting a large vocabulary takes milliseconds and the nucleus is nearly always small: sort candidates first.
    count = min(_FIRST_CANDIDATES, scores.size)
    while True:
        largest = np.sort(np.partition(shares, scores.size - count)[scores.size - count :])[::-1]
        reached = np.flatnonzero(np.cumsum(largest) >= wanted)
        if reached.size or count == scores.size:
            break
        count = min(count * 8, scores.size)
    # Rounding can leave the sum of all shares just below `wanted`.
    threshold = largest[reached[0] if reached.size else -1]
    return np.where(shares >= threshold, scores, np.float32(-np.inf))


def keep_min_p(scores: Row, p: float) -> Row:
    """Scores with only the tokens kept whose probability is at least `p` times the likeliest one's."""
    if p == 0.0:
        return scores
    return np.where(scores >= scores.max() + np.float32(np.log(p)), scores, np.float32(-np.inf))


def draw(scores: Row, uniform: float) -> int:
    """Token at quantile `uniform` (in [0, 1)) of the distribution of `scores`, in order of token id."""
    cumulative = np.cumsum(np.exp(scores - np.float32(scores.max())).astype(np.float64))
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    # The product can round up to the total; then the last token with a share is drawn.
    return min(index, int(np.searchsorted(cumulative, cumulative[-1], side="left")))


class Sampler:
    """Sampler of one row, with a generator of its own: the row does not depend on other rows of the batch."""

    def __init__(
        self, params: GenerationParams, vocab: int, prompt: Sequence[int], ends: frozenset[int] = frozenset()
    ) -> None:
        self._params = params
        self._ends = [end for end in ends if end < vocab]
        self._counts = np.zeros(vocab, dtype=np.int32)
        self._chosen = 0
        self._random = np.random.default_rng(params.seed)
        self._seen = np.zeros(vocab, dtype=np.bool_)
        self._seen[list(prompt)] = True

    def choose(self, logits: Row) -> tuple[int, float, tuple[tuple[int, float], ...]]:
        """Choose from logits [vocab] -> (token id, its log probability, the `top_log_probs` likeliest ids with theirs).

        Raises:
            NumericsError: the largest logit is NaN or infinite.
        """
        if not np.isfinite(logits.max()):
            raise NumericsError(
                "expected finite logits; the model's logits hold NaN or infinity",
                hint="`lmi-compile verify` compares the artifact's logits with the source model's.",
            )
        params = self._params
        scores = penalize(logits, self._seen, params.repetition_penalty)
        scores = discourage(scores, self._counts, params.presence_penalty, params.frequency_penalty)
        if self._chosen < params.min_new_tokens and self._ends:
            scores = scores.copy()
            scores[self._ends] = -np.inf
        if params.temperature == 0:
            token = int(scores.argmax())
        else:
            # Subtracting first keeps a tiny temperature from overflowing to infinity minus infinity.
            scores = (scores - scores.max()) / np.float32(min(max(params.temperature, 1e-6), 1e6))
            scores = keep_min_p(keep_top_p(keep_top_k(scores, params.top_k), params.top_p), params.min_p)
            token = draw(scores, self._random.random())
        self._seen[token] = True
        self._counts[token] += 1
        self._chosen += 1
        normalizer = log_normalizer(logits)
        return token, float(logits[token]) - normalizer, most_likely(logits, params.top_log_probs, normalizer)


def most_likely(logits: Row, count: int, normalizer: float) -> tuple[tuple[int, float], ...]:
    """Likeliest `count` tokens as (id, log probability), the likeliest first, the smaller id first among equals."""
    if count == 0:
        return ()
    count = min(count, logits.size)
    threshold = np.partition(logits, logits.size - count)[logits.size - count]
    ids = np.flatnonzero(logits >= threshold)
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    return tuple((int(i), float(logits[i]) - normalizer) for i in ids)
