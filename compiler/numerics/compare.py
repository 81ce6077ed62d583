"""Distance between two sets of logits, and its thresholds. numpy only.

For reference logits R and found logits A, float32 [tokens, vocab], both centered per position (softmax
ignores a constant):

    max_abs, mean_abs   |A - R| over all elements
    cosine              mean over positions of A.R / (|A| |R|)
    top1_agreement      share of positions whose largest logit is at the same token; ties of A count as the same
    kl                  mean over positions of KL(softmax(R) || softmax(A)), in nats
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import NumericsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Figures:
    max_abs: float
    mean_abs: float
    cosine: float
    top1_agreement: float
    kl: float
    kl_median: float


@dataclass(frozen=True)
class Thresholds:
    """Lower limits of `cosine` and `top1_agreement`, upper limits of `kl` and `kl_median` (nats)."""

    cosine: float
    top1_agreement: float
    kl: float
    kl_median: float


THRESHOLDS = {
    "float32": Thresholds(cosine=0.99999, top1_agreement=0.98, kl=1e-5, kl_median=1e-6),
    "float16": Thresholds(cosine=0.998, top1_agreement=0.90, kl=2e-2, kl_median=2e-4),
    "bfloat16": Thresholds(cosine=0.98, top1_agreement=0.75, kl=1e-1, kl_median=1e-2),
}
"""Thresholds against a float32 reference, by the dtype of the artifact.

A product rounded to bfloat16 (8 significant bits) is off by up to 0.4 %, and the errors of all layers add up; float16
has three bits more, float32 sixteen. The untrained models of the tests, which have no easy tokens, reach a median KL of
0.002 in bfloat16 and of 0.00003 in float16. The median is the strict figure, because correct models differ at two kinds
of position: where two tokens are about equally likely, rounding may choose the other; where two experts are, the router
may choose the other, which gives a KL of up to a nat. A wrong layout moves every position.
"""


def compare(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Figures:
    """Figures of `found` against `reference`, both [tokens, vocab]. Non-finite logits give infinite distances.

    Raises NumericsError where the shapes differ.
    """
    if reference.shape != found.shape:
        raise NumericsError(
            f"expected logits of shape {list(reference.shape)}, the artifact gives {list(found.shape)}",
            hint="the artifact is of another model than its reference; build it again",
        )
    if not np.isfinite(found).all():
        infinite = float("inf")
        return Figures(infinite, infinite, 0.0, 0.0, infinite, infinite)
    r = reference.astype(np.float64)
    a = found.astype(np.float64)
    r -= r.mean(-1, keepdims=True)
    a -= a.mean(-1, keepdims=True)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(r, axis=-1)
    log_p, log_q = _log_softmax(r), _log_softmax(a)
    divergence = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)
    chosen = np.take_along_axis(a, r.argmax(-1)[:, None], -1)[:, 0]
    return Figures(
        max_abs=rounded(np.abs(a - r).max()),
        mean_abs=rounded(np.abs(a - r).mean()),
        cosine=rounded(np.mean((a * r).sum(-1) / np.maximum(norms, 1e-30)), 6),
        top1_agreement=rounded(np.mean(chosen >= a.max(-1))),
        kl=rounded(divergence.mean()),
        kl_median=rounded(float(np.median(divergence))),
    )


FLOOR_TIMES = 3
"""Multiple of the figures of a correct computation in the artifact's dtype that an artifact may have: both round at
different places, and medians over some ten tokens scatter.
"""


def widened(limits: Thresholds, floor: Figures | None) -> Thresholds:
    """Limits that are no stricter than FLOOR_TIMES `floor`: figures of the same rank files, computed by the definitions
    of their layers in the artifact's dtype. Rounding of activations and caches to 8 bits amplifies the rounding of the
    dtype, by an amount that depends on the model: a value at the edge of two steps moves by a whole one.
    """
    if floor is None:
        return limits
    return Thresholds(
        cosine=min(limits.cosine, 1 - FLOOR_TIMES * (1 - floor.cosine)),
        top1_agreement=min(limits.top1_agreement, max(1 - FLOOR_TIMES * (1 - floor.top1_agreement), 0.0)),
        kl=max(limits.kl, FLOOR_TIMES * floor.kl),
        kl_median=max(limits.kl_median, FLOOR_TIMES * floor.kl_median),
    )


def thresholds(dtype: str, gate: Mapping[str, float] | None = None) -> Thresholds:
    """Thresholds for an artifact in `dtype`. `gate`: limits of the numerics gate, where a quantized model is compared
    with its source. Figures scatter over so few tokens: KL may be a multiple of the gate's limit on a longer text.
    """
    own = THRESHOLDS[dtype]
    if gate is None:
        return own
    # Independent errors of logits with variance v cost v / 2 nats, and v / 2 of the cosine of logits with
    # variance 1; that of trained models is larger.
    return Thresholds(
        cosine=min(own.cosine, max(1 - gate["kl"] / 2, -1.0)),
        top1_agreement=min(own.top1_agreement, max(0.75 - 2.5 * gate["kl"], 0.0)),
        kl=max(own.kl, 4 * gate["kl"]),
        kl_median=max(own.kl_median, 2 * gate["kl"]),
    )


def judge(
    figures: Figures, thresholds: Thresholds, where: str = "", parts: Mapping[str, Figures] | None = None
) -> None:
    """Check figures against thresholds. `where`: conditions of the measurement, for the error. `parts`: figures of some
    tokens each, which may be few: their median KL alone is checked.

    Raises NumericsError that names every figure beyond its threshold.
    """
    limits = asdict(thresholds)
    problems = []
    for name, limit in limits.items():
        found = getattr(figures, name)
        least = name in ("cosine", "top1_agreement")
        if not (found >= limit if least else found <= limit):
            problems.append(f"{name} {found:g}, expected at {'least' if least else 'most'} {limit:g}")
    problems += [
        f"kl_median {part.kl_median:g} {name}, expected at most {thresholds.kl_median:g}"
        for name, part in (parts or {}).items()
        if not part.kl_median <= thresholds.kl_median
    ]
    if problems:
        raise NumericsError(
            f"the artifact does not compute what the model computes{where}: " + "; ".join(problems),
            hint="do not use it; build it again with `--rehash`, and report the error if it persists",
        )


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = x - x.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def rounded(value: float, digits: int = 3) -> float:
    """Round to `digits` significant digits, since the last bits of a sum depend on the number of threads."""
    return float(f"{float(value):.{digits}g}")
