"""Evidence on next-token predictions: losses and divergence of blocks of tokens, and intervals that they support.

With d the loss of the files less that of the float model, summed over a block of n tokens,

    increase of the perplexity     exp(sum d / sum n) - 1
    KL                             sum of the divergences / sum n

Both are ratios r of sums over blocks. Losses of neighbors depend on each other, those of blocks hardly do, so the
standard error of r is that of a ratio estimator over B clusters (Cochran, Sampling Techniques, 3rd ed., section 2.11):

    se^2 = B / (B - 1) * sum (d - r n)^2 / (sum n)^2
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BLOCK = 32
"""Tokens of a block, at most."""
DEVIATIONS = 1.96
"""Half the width of an interval in standard errors: 95 % of normal errors are within."""
BEYOND = 1e30
"""Infinity in JSON."""
_LARGEST_EXPONENT = 700.0

Interval = tuple[float, float]


@dataclass(frozen=True)
class TokenBlock:
    """Sums over neighboring tokens of one sample. `predicted`: tokens whose next one is in the sample; `loss_float`,
    `loss`: of these, in nats, by the float model and by the files; `agree`: tokens with the same most likely next one.
    """

    tokens: int
    predicted: int
    kl: float
    agree: int
    loss_float: float
    loss: float


@dataclass(frozen=True)
class Evidence:
    """Figures of all blocks."""

    blocks: tuple[TokenBlock, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all blocks."""
        return sum(block.tokens for block in self.blocks)

    @property
    def predicted(self) -> int:
        """Tokens whose next one is known."""
        return sum(block.predicted for block in self.blocks)

    @property
    def kl(self) -> float:
        """Mean divergence of the files from the float model, in nats."""
        return _bounded(max(_mean([b.kl for b in self.blocks], self.tokens), 0.0))

    @property
    def kl_interval(self) -> Interval:
        """Interval of `kl`."""
        error = _deviation([b.kl for b in self.blocks], [b.tokens for b in self.blocks])
        return max(self.kl - error, 0.0), _bounded(self.kl + error)

    @property
    def top1_agreement(self) -> float:
        """Share of tokens with the same most likely next one."""
        return _mean([b.agree for b in self.blocks], self.tokens)

    @property
    def perplexity_float(self) -> float:
        """Perplexity of the float model."""
        return _exp(_mean([b.loss_float for b in self.blocks], self.predicted))

    @property
    def perplexity(self) -> float:
        """Perplexity of the files."""
        return _exp(_mean([b.loss for b in self.blocks], self.predicted))

    @property
    def increase(self) -> float:
        """Increase of the perplexity, as a share."""
        return _bounded(_exp(_mean(self._added, self.predicted)) - 1)

    @property
    def increase_interval(self) -> Interval:
        """Interval of `increase`."""
        mean = _mean(self._added, self.predicted)
        error = _deviation(self._added, [b.predicted for b in self.blocks])
        return _exp(mean - error) - 1, _bounded(_exp(mean + error) - 1)

    @property
    def _added(self) -> list[float]:
        return [block.loss - block.loss_float for block in self.blocks]

    def with_more(self, other: Evidence) -> Evidence:
        """Evidence of both texts."""
        return Evidence((*self.blocks, *other.blocks))

    def to_json(self) -> list[list[float]]:
        """One list per block, in the order of its fields."""
        return [[b.tokens, b.predicted, b.kl, b.agree, b.loss_float, b.loss] for b in self.blocks]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[Any]]) -> Evidence:
        """Inverse of `to_json`."""
        return cls(tuple(TokenBlock(*block) for block in data))


def blocks_of(
    kl: Sequence[float], agree: Sequence[bool], losses: Mapping[str, Sequence[float]]
) -> tuple[TokenBlock, ...]:
    """Blocks of one sample from its tokens: `kl`, `agree` [tokens], `losses` of "float" and "files" [tokens - 1]."""
    found = []
    for begin in range(0, len(kl), BLOCK):
        end = begin + BLOCK
        before, after = losses["float"][begin:end], losses["files"][begin:end]
        found.append(
            TokenBlock(
                tokens=len(kl[begin:end]),
                predicted=len(before),
                kl=_finite(sum(kl[begin:end])),
                agree=sum(map(int, agree[begin:end])),
                loss_float=_finite(sum(before)),
                loss=_finite(sum(after)),
            )
        )
    return tuple(found)


def _mean(sums: Sequence[float], count: int) -> float:
    return sum(sums) / max(count, 1)


def _deviation(sums: Sequence[float], counts: Sequence[int]) -> float:
    """Half the width of the interval of sum(sums) / sum(counts); infinite for fewer than two blocks."""
    if len(sums) < 2:
        return BEYOND
    total = max(sum(counts), 1)
    ratio = sum(sums) / total
    squares = sum((one - ratio * count) ** 2 for one, count in zip(sums, counts, strict=True))
    return _bounded(DEVIATIONS * sqrt(len(sums) / (len(sums) - 1) * squares) / total)


def _exp(value: float) -> float:
    return _bounded(exp(min(value, _LARGEST_EXPONENT)))


def _finite(value: float) -> float:
    return float(value) if isfinite(value) else BEYOND


def _bounded(value: float) -> float:
    return min(value, BEYOND) if isfinite(value) else BEYOND
