"""Verdict of the numerics gate: figures from `measure.py` against the limits of a scheme."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.errors import NumericsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.quantization.schemes import Tolerance

BEYOND = 1e30
"""Infinity in JSON."""


@dataclass(frozen=True)
class PartError:
    """Error of a block (`layers.{i}.attn`, `.mlp`): |files - float| / |float| and the cosine, over all tokens.

    `channel`: output channel with the largest error.
    """

    name: str
    relative: float
    cosine: float
    channel: int


@dataclass(frozen=True)
class Verdict:
    """Figures of the gate. `kl`: mean over positions of KL(float || files), in nats. `lowered`: of a few tokens of the
    model with lowered limits (numerics/proof.py); None where the samples are longer than its limits.
    """

    parts: tuple[PartError, ...]
    tokens: int
    text: str
    kl: float
    top1_agreement: float
    perplexity_float: float
    perplexity: float
    lowered: Verdict | None = None

    @property
    def increase(self) -> float:
        """Increase of the perplexity, as a share."""
        return self.perplexity / self.perplexity_float - 1

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(replace(self, lowered=None)), "perplexity_increase": self.increase}
        found["parts"] = [{**asdict(part), "relative": min(part.relative, BEYOND)} for part in self.parts]
        found = {name: min(value, BEYOND) if isinstance(value, float) else value for name, value in found.items()}
        return {**found, "lowered": self.lowered.to_json() if self.lowered else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        known = {name: value for name, value in data.items() if name != "perplexity_increase"}
        lowered = cls.from_json(data["lowered"]) if data["lowered"] else None
        return cls(**{**known, "parts": tuple(PartError(**part) for part in data["parts"]), "lowered": lowered})

    @property
    def worst(self) -> PartError | None:
        """Part with the smallest cosine; None where parts were not measured."""
        return min(self.parts, key=lambda part: part.cosine, default=None)


def judge(verdict: Verdict, tolerance: Tolerance) -> None:
    """Check a verdict. Raises NumericsError that names every figure and every part beyond its limit.

    Perplexity and KL scatter over the few tokens with lowered limits: only the parts of these are checked.
    """
    problems = []
    if not verdict.increase <= tolerance.perplexity:
        problems.append(
            f"perplexity {verdict.perplexity_float:.4g} becomes {verdict.perplexity:.4g} ({verdict.increase:+.2%}), "
            f"expected at most {tolerance.perplexity:+.2%}"
        )
    if not verdict.kl <= tolerance.kl:
        problems.append(f"KL divergence {verdict.kl:.3g}, expected at most {tolerance.kl:g}")
    problems += _wrong_parts(verdict.parts, tolerance)
    if verdict.lowered is not None:
        problems += [
            f"with lowered window or boundary: {problem}" for problem in _wrong_parts(verdict.lowered.parts, tolerance)
        ]
    if problems:
        raise NumericsError(
            "\n".join(["the quantized model is beyond its tolerance:", *(f"  {problem}" for problem in problems)]),
            hint="use finer scales (per channel, per token) or more bits; one bad layer among good ones hints at a "
            "damaged or wrongly converted file",
        )


def _wrong_parts(parts: Sequence[PartError], tolerance: Tolerance) -> list[str]:
    wrong = sorted((part for part in parts if not part.cosine >= tolerance.cosine), key=lambda part: part.cosine)
    found = [
        f"`{part.name}`: cosine {part.cosine:.5f}, expected at least {tolerance.cosine:g} (off by {part.relative:.1%}, "
        f"output {part.channel} most)"
        for part in wrong[:10]
    ]
    return [*found, f"... and {len(wrong) - 10} more parts of layers"] if len(wrong) > 10 else found
