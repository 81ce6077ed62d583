"""How much a quantization may cost: the limits of the numerics gate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Limits of the numerics gate, against the unquantized model.

    `perplexity`: increase on held-out text, as a share; `kl`: mean divergence of the next token, in nats; `cosine`: of
    every layer's output, at least.
    """

    perplexity: float
    kl: float
    cosine: float


CLOSE = Tolerance(perplexity=0.005, kl=0.005, cosine=0.999)
EIGHT_BITS = Tolerance(perplexity=0.02, kl=0.02, cosine=0.99)
FOUR_BITS = Tolerance(perplexity=0.08, kl=0.08, cosine=0.97)
