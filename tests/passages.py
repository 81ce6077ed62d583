"""Logits of every token of the rows of a proof, from a file that has some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compiler.numerics.passages import REFERENCE, read_reference

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.numerics.passages import Logits


def stored_logits(artifact: Path) -> list[Logits]:
    """Logits [tokens, vocab] of each straight row: those of the artifact's reference; zeros where it has none."""
    straight = read_reference(artifact / REFERENCE).straight
    found = []
    for ids, compared, logits in zip(straight.rows, straight.compared, straight.logits, strict=True):
        whole = np.zeros((len(ids), logits.shape[1]), np.float32)
        whole[compared] = logits
        found.append(whole)
    return found
