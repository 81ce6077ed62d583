"""From one row of logits to one token. Pure numpy functions; scores that are out of the draw are -inf.

Both filters keep every token whose score is at least a threshold, so equal scores share one fate and the result does
not depend on an order of sorting.
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
    """log(sum(exp(logits))): a logit minus this is the token's log probability."""
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - np.float32(top)).sum(dtype=np.float64)))


def penalize(logits: Row, seen: npt.NDArray[np.bool_], penalty: float) -> Row:
    """Positive logits of `seen` tokens / penalty, negative ones * penalty (CTRL, Keskar et al. 2019, section 4.1)."""
    if penalty == 1.0:
        return logits
    penalized = np.where(logits > 0, logits / np.float32(penalty), logits * np.float32(penalty))
    return np.where(seen, penalized, logits)


def keep_top_k(scores: Row, k: int) -> Row:
    """The k largest scores, and those equal to the k-th."""
    if k == 0 or k >= scores.size:
        return scores
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    return np.where(scores >= threshold, scores, np.float32(-np.inf))


def keep_top_p(scores: Row, p: float) -> Row:
    """The fewest most likely tokens whose probabilities reach `p` together, and those as likely as the last of them."""
    if p >= 1.0:
        return scores
    shares = np.exp(scores - np.float32(scores.max())).astype(np.float64)
    wanted = p * shares.sum()
    # Sorting a large vocabulary costs milliseconds and the nucleus is nearly always small: sort candidates first.
    count = min(_FIRST_CANDIDATES, scores.size)
    while True:
        largest = np.sort(np.partition(shares, scores.size - count)[scores.size - count :])[::-1]
        reached = np.flatnonzero(np.cumsum(largest) >= wanted)
        if reached.size or count == scores.size:
            break
        count = min(count * 8, scores.size)
    # Rounding can leave the sum of all shares a hair below `wanted`.
    threshold = largest[reached[0] if reached.size else -1]
    return np.where(shares >= threshold, scores, np.float32(-np.inf))


def draw(scores: Row, uniform: float) -> int:
    """The token at `uniform` (in [0, 1)) of the cumulative distribution of `scores`, in order of token id."""
    cumulative = np.cumsum(np.exp(scores - np.float32(scores.max())).astype(np.float64))
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    # The product can round up to the total; the last token with a share is then the one.
    return min(index, int(np.searchsorted(cumulative, cumulative[-1], side="left")))


class Sampler:
    """Chooses the tokens of one row. It has its own generator, so the row does not depend on its neighbours."""

    def __init__(self, params: GenerationParams, vocab: int, prompt: Sequence[int]) -> None:
        self._params = params
        self._random = np.random.default_rng(params.seed)
        self._seen = np.zeros(vocab, dtype=np.bool_)
        self._seen[list(prompt)] = True

    def choose(self, logits: Row) -> tuple[int, float, tuple[tuple[int, float], ...]]:
        """(token id, its log probability, the `top_log_probs` most likely ids with theirs) of logits [vocab].

        Raises:
            NumericsError: there is no largest logit: one is NaN, or all are infinite.
        """
        if not np.isfinite(logits.max()):
            raise NumericsError(
                "the model's logits hold NaN or infinity",
                hint="`lmi-compile verify` says whether the artifact computes what the model computes.",
            )
        params = self._params
        scores = penalize(logits, self._seen, params.repetition_penalty)
        if params.temperature == 0:
            token = int(scores.argmax())
        else:
            # Subtracting first keeps a tiny temperature from overflowing to infinity minus infinity.
            scores = (scores - scores.max()) / np.float32(max(params.temperature, 1e-6))
            scores = keep_top_p(keep_top_k(scores, params.top_k), params.top_p)
            token = draw(scores, self._random.random())
        self._seen[token] = True
        normalizer = log_normalizer(logits)
        return token, float(logits[token]) - normalizer, most_likely(logits, params.top_log_probs, normalizer)


def most_likely(logits: Row, count: int, normalizer: float) -> tuple[tuple[int, float], ...]:
    """The `count` most likely (id, log probability), the likeliest first, the smaller id first where equal."""
    if count == 0:
        return ()
    count = min(count, logits.size)
    threshold = np.partition(logits, logits.size - count)[logits.size - count]
    ids = np.flatnonzero(logits >= threshold)
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    return tuple((int(i), float(logits[i]) - normalizer) for i in ids)
