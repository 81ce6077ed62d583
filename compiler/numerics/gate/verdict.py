"""Verdict of the numerics gate: figures from `measure.py` against its limits.

Two questions are asked of every part of a layer, of the float model's own input:

    Do the files compute their scheme?    distance: |files - scheme| / |scheme - float|, at most `Tolerance.distance`,
                                          of one output at most `Tolerance.channel`. The scheme's own error is known
                                          from the number format (simulation.py), and a correct file repeats it: a wrong
                                          scale shows, however small the part is beside the stream.
    Does the scheme compute the model?    stream: error relative to the residual stream that the part is added to, at
                                          most `Tolerance.stream`; and over all layers, perplexity and KL.

A part's cosine is reported and not judged: attention whose output is small beside the stream may be off by a tenth of
itself without an effect on any token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from compiler.errors import NumericsError
from compiler.numerics.gate.evidence import BEYOND, Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.quantization.schemes import Tolerance

HEAD = "head"
"""Name of the head among parts; its outputs are logits, and it is added to no stream."""


@dataclass(frozen=True)
class PartError:
    """Error of a block (`layers.{i}.attn`, `.mlp`) or of a quantized head (HEAD) over all tokens, on the float model's
    input: |files - float| / |float| and the cosine. `channel`: output channel with the largest error.

    `stream`: root mean square over tokens of |files - float| / |residual stream after the part|, for the head / |its
    logits|. `distance`: see `Tolerance`;
    `channel_distance`: the largest of an output channel, `apart`; None where the scheme was not simulated.
    """

    name: str
    relative: float
    cosine: float
    channel: int
    stream: float
    distance: float | None = None
    channel_distance: float | None = None
    apart: int = 0

    def to_json(self) -> dict[str, Any]:
        """Fields, with infinity as BEYOND."""
        found = asdict(self)
        return {n: BEYOND if isinstance(v, float) and not isfinite(v) else v for n, v in found.items()}


@dataclass(frozen=True)
class Verdict:
    """Figures of the gate. `parts`: of the layers `layers`, over `part_tokens` tokens. `lowered`: of a few tokens of
    the model with lowered limits (numerics/proof.py); None where the samples are longer than its limits.
    """

    parts: tuple[PartError, ...]
    text: str
    evidence: Evidence
    part_tokens: int
    layers: tuple[int, ...] = ()
    lowered: Verdict | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the evidence."""
        return self.evidence.tokens

    @property
    def worst(self) -> PartError | None:
        """Part with the largest error beside its stream; None where parts were not measured."""
        return max(self.parts, key=lambda part: part.stream, default=None)

    def with_more(self, other: Verdict) -> Verdict:
        """Verdict whose evidence is that of both."""
        return replace(self, evidence=self.evidence.with_more(other.evidence))

    def to_json(self) -> dict[str, Any]:
        """Figures, intervals and blocks."""
        found = self.evidence
        return {
            "parts": [part.to_json() for part in self.parts],
            "text": self.text,
            "tokens": found.tokens,
            "kl": found.kl,
            "kl_interval": list(found.kl_interval),
            "top1_agreement": found.top1_agreement,
            "perplexity_float": found.perplexity_float,
            "perplexity": found.perplexity,
            "perplexity_increase": found.increase,
            "perplexity_increase_interval": list(found.increase_interval),
            "part_tokens": self.part_tokens,
            "layers": list(self.layers),
            "evidence": found.to_json(),
            "lowered": self.lowered.to_json() if self.lowered else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """Inverse of `to_json`."""
        return cls(
            tuple(PartError(**part) for part in data["parts"]),
            data["text"],
            Evidence.from_json(data["evidence"]),
            data["part_tokens"],
            tuple(data["layers"]),
            cls.from_json(data["lowered"]) if data["lowered"] else None,
        )


def undecided(verdict: Verdict, tolerance: Tolerance) -> bool:
    """Whether a limit is within the interval of its figure, so that more tokens may move the figure across it."""
    found = verdict.evidence
    pairs = ((found.increase_interval, tolerance.perplexity), (found.kl_interval, tolerance.kl))
    return any(low <= limit < high for (low, high), limit in pairs)


def judge(verdict: Verdict, tolerance: Tolerance) -> None:
    """Check a verdict. Raises NumericsError that names every figure and every part beyond its limit.

    Perplexity and KL scatter over the few tokens with lowered limits: only the parts of these are checked.
    """
    found, problems = verdict.evidence, []
    over = f"over {found.tokens:,} tokens"
    if not found.increase <= tolerance.perplexity:
        low, high = found.increase_interval
        problems.append(
            f"perplexity {found.perplexity_float:.4g} becomes {found.perplexity:.4g} ({found.increase:+.2%}, 95 % "
            f"within {low:+.2%} and {high:+.2%} {over}), expected at most {tolerance.perplexity:+.2%}"
        )
    if not found.kl <= tolerance.kl:
        low, high = found.kl_interval
        problems.append(
            f"KL divergence {found.kl:.3g} (95 % within {low:.3g} and {high:.3g} {over}), expected at most "
            f"{tolerance.kl:g}"
        )
    problems += _wrong_parts(verdict.parts, tolerance)
    if verdict.lowered is not None:
        problems += [
            f"with lowered window or boundary: {problem}" for problem in _wrong_parts(verdict.lowered.parts, tolerance)
        ]
    if problems:
        raise NumericsError(
            "\n".join(["the quantized model is beyond its tolerance:", *(f"  {problem}" for problem in problems)]),
            hint="use finer scales (per channel, per token) or more bits; a part that is far from its scheme hints "
            "at a damaged or wrongly converted file",
        )


def part_problems(part: PartError, tolerance: Tolerance) -> list[str]:
    """Limits that a part is beyond."""
    found = []
    if not part.stream <= tolerance.stream:
        found.append(
            f"off by {part.stream:.2%} of the residual stream, expected at most {tolerance.stream:.2%} (by "
            f"{part.relative:.1%} of its own output, output {part.channel} most)"
        )
    if part.distance is not None and not part.distance <= tolerance.distance:
        found.append(
            f"{part.distance:.2f} times the scheme's own error away from it, expected at most {tolerance.distance:g}"
        )
    elif part.channel_distance is not None and not part.channel_distance <= tolerance.channel:
        found.append(
            f"output {part.apart} is {part.channel_distance:.2f} times the scheme's own error away from it, expected "
            f"at most {tolerance.channel:g}"
        )
    return found


def _wrong_parts(parts: Sequence[PartError], tolerance: Tolerance) -> list[str]:
    found = {part: part_problems(part, tolerance) for part in parts}
    wrong = sorted((part for part in parts if found[part]), key=lambda part: -part.relative)
    lines = [f"`{part.name}`: {'; '.join(found[part])}" for part in wrong[:10]]
    return [*lines, f"... and {len(wrong) - 10} more parts of layers"] if len(wrong) > 10 else lines
