"""Logits of a whole text on an engine, for verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compiler.runtime.commands import StepCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.runtime.engine import Engine, Logits


def all_logits(engine: Engine, token_ids: Sequence[int], chunk: int, decode_from: int, rows: int = 1) -> Logits:
    """Logits [n, vocab] after each of n tokens, with decode steps from index `decode_from` on.

    `rows` equal rows run at once; the result is the last one's logits.
    """
    ids = np.tile(np.asarray(token_ids, dtype=np.int64), (rows, 1))
    engine.make_room(rows, ids.shape[1])
    parts = []
    begin = 0
    while begin < ids.shape[1]:
        end = min(begin + chunk, decode_from) if begin < decode_from else begin + 1
        last = np.tile(np.arange(end - begin), (rows, 1))
        logits = engine.step(StepCommand(ids[:, begin:end], _positions(rows, begin, end), last, end))
        assert logits is not None
        parts.append(logits[-1])
        begin = end
    whole: Logits = np.concatenate(parts)
    return whole


def _positions(rows: int, begin: int, end: int) -> npt.NDArray[np.int64]:
    return np.broadcast_to(np.arange(begin, end), (rows, end - begin))
