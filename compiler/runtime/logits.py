"""Logits of whole texts on an engine, for verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compiler.runtime.commands import StepCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.runtime.engine import Engine, Logits


def all_logits(
    engine: Engine, rows: Sequence[Sequence[int]], chunk: int, decoded: int, *, prefilled: bool = True
) -> list[Logits]:
    """Logits [n, vocab] after each of the n tokens of every row. Rows of any length run at once; the last `decoded`
    tokens of each go through decode steps, those before through prefill, `chunk` positions per step.

    `prefilled` False: logits of the decode steps only, [decoded, vocab].
    """
    ids = [np.asarray(row, dtype=np.int64) for row in rows]
    prompts = [len(row) - decoded for row in ids]
    engine.make_room(len(ids), max(map(len, ids)))
    parts: list[list[Logits]] = [[] for _ in ids]
    padded = np.zeros((len(ids), max(prompts)), dtype=np.int64)
    for row, own in enumerate(ids):
        padded[row, : prompts[row]] = own[: prompts[row]]
    for begin in range(0, padded.shape[1], chunk):
        end = min(begin + chunk, padded.shape[1])
        last = np.tile(np.arange(end - begin), (len(ids), 1)) if prefilled else np.zeros((len(ids), 0), np.int64)
        logits = engine.step(StepCommand(padded[:, begin:end], _positions(len(ids), begin, end), last, end))
        if logits is not None:
            for row, count in enumerate(prompts):
                parts[row].append(logits[row, : max(min(count, end) - begin, 0)])
    for step in range(decoded):
        positions = np.array([[count + step] for count in prompts])
        tokens = np.array([own[place] for own, place in zip(ids, positions, strict=True)])
        logits = engine.step(StepCommand(tokens, positions, np.zeros_like(tokens), int(positions.max()) + 1))
        assert logits is not None
        for row, own in enumerate(logits):
            parts[row].append(own)
    return [np.concatenate(part) for part in parts]


def _positions(rows: int, begin: int, end: int) -> npt.NDArray[np.int64]:
    return np.broadcast_to(np.arange(begin, end), (rows, end - begin))
