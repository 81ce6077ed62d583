"""Record of a proof in the manifest: logits of an artifact against its reference, judged over all and row by row."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from compiler.artifact.manifest import Coverage, Numerics
from compiler.errors import NumericsError
from compiler.numerics.compare import Figures, compare, judge
from compiler.numerics.passages import REFERENCE
from compiler.targets.runners import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from compiler.numerics.compare import Thresholds
    from compiler.numerics.passages import Expected, Logits, Passage
    from compiler.numerics.proof import Proof


def numerics(
    expected: Expected,
    found: Sequence[Logits],
    lowered: Sequence[Logits] | None,
    bounds: Thresholds,
    reference: str,
    proof: Proof,
    file: str | None = REFERENCE,
) -> Numerics:
    """Record of the logits `found` [tokens, vocab] of every straight row, and `lowered` of the lowered rows.

    Its figures are those of the straight rows. Raises NumericsError where a figure is beyond its threshold: of all
    straight rows, of one row, of its last tokens, or of the lowered rows.
    """
    figures = _judged(expected.straight, found, bounds)
    if expected.lowered is not None and lowered is not None:
        _judged(expected.lowered, lowered, bounds, f" in rows of {proof.lowered_text}")
    return Numerics(
        reference=reference,
        reference_file=file,
        tokens=sum(map(len, expected.straight.compared)),
        thresholds=asdict(bounds),
        coverage=_coverage(expected, proof, lowered is not None),
        **asdict(figures),
    )


def floor_of(passage: Passage, found: Sequence[Logits]) -> Figures:
    """Figures of a correct computation `found`; its median KL is the largest of the parts that are judged."""
    figures, parts = _compared(passage, found)
    return replace(figures, kl_median=max([figures.kl_median, *(part.kl_median for part in parts.values())]))


def _judged(passage: Passage, found: Sequence[Logits], bounds: Thresholds, where: str = "") -> Figures:
    """Figures of the logits `found` [tokens, vocab] of the rows of a passage."""
    figures, parts = _compared(passage, found)
    judge(figures, bounds, where, parts)
    return figures


def _compared(passage: Passage, found: Sequence[Logits]) -> tuple[Figures, dict[str, Figures]]:
    own = _at(passage, found)
    return compare(np.concatenate(passage.logits), np.concatenate(own)), dict(_parts(passage, own))


def _at(passage: Passage, found: Sequence[Logits]) -> list[Logits]:
    """The logits [compared, vocab] of each row among those of all its tokens."""
    shapes = [(len(row), logits.shape[1]) for row, logits in zip(passage.rows, passage.logits, strict=True)]
    if [logits.shape for logits in found] != shapes:
        raise NumericsError(
            f"expected logits of shapes {shapes}, the artifact gives {[logits.shape for logits in found]}",
            hint="the artifact is of another model than its reference; build it again",
        )
    return [logits[compared] for logits, compared in zip(found, passage.compared, strict=True)]


def _parts(passage: Passage, found: Sequence[Logits]) -> Iterator[tuple[str, Figures]]:
    """Figures of each row before and in its last tokens, by their place."""
    steps = decoded(passage.rows)
    for number, (ids, places, reference, own) in enumerate(
        zip(passage.rows, passage.compared, passage.logits, found, strict=True), 1
    ):
        begin = len(ids) - steps
        for name, part in (("up to", places < begin), ("from", places >= begin)):
            if part.any():
                edge = begin - 1 if name == "up to" else begin
                yield f"in row {number} {name} position {edge}", compare(reference[part], own[part])


def _coverage(expected: Expected, proof: Proof, lowered: bool) -> Coverage:
    """Facts of the rows that ran: those of an older reference may be fewer than the proof asks for."""
    facts = proof.to_json()
    ran = expected.lowered.rows if lowered and expected.lowered else ()
    if not ran:
        facts |= {"lowered_window": None, "lowered_boundary": None}
    return Coverage(
        **{**facts, "rows": [len(row) for row in expected.straight.rows], "lowered_rows": [len(row) for row in ran]}
    )
