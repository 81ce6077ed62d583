"""A model that repeats its prompt byte by byte, with the real scheduler, rows and sampling in front of it.

The engine keeps a cache of token ids and reads its answer from it, so that a row in a wrong place answers wrongly.

"a b"       tokens "a", " ", "b", then the end token; ends as `length` where max_new_tokens is fewer
"hold..."   every step with such a row waits until `go` is released once        "fail..."   the model fails for good
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compiler.errors import RankError
from compiler.model.limits import Limits
from compiler.runtime.commands import StepCommand
from compiler.runtime.generate import Model

LIMITS = Limits(max_positions=96, max_batch=3, prefill_chunk=16)
ASK, END = 256, 257
VOCAB = 258


class EchoTokenizer:
    """Bytes, and a token behind each prompt after which the answer begins."""

    regular, extra, notes = 256, {ASK: "<ask>", END: "<end>"}, ()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        del special
        return [*text.encode(), ASK]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < ASK).decode(errors="replace")

    def special(self, token: int) -> str | None:
        return {ASK: "<ask>", END: "<end>"}.get(token)


class EchoEngine:
    """Engine without a model. `go`, `running`: see above; `running` is released when a step waits."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.running = threading.Semaphore(0)
        self.steps = 0
        self.closed = False
        self._cache = np.full((LIMITS.max_batch, LIMITS.max_positions), -1, dtype=np.int64)

    def make_room(self, batch: int, length: int) -> None:
        assert batch <= LIMITS.max_batch
        assert length <= LIMITS.max_positions

    def swap(self, source: int, target: int) -> None:
        self._cache[[source, target]] = self._cache[[target, source]]

    def step(self, step: StepCommand) -> npt.NDArray[np.float32] | None:
        if self.closed:
            raise RankError("this model is closed", hint="load it again")
        self.steps += 1
        rows = range(step.first, step.first + step.token_ids.shape[0])
        for row, ids, positions in zip(rows, step.token_ids, step.positions, strict=True):
            self._cache[row, positions] = ids
        beginnings = [bytes(i for i in self._cache[row][:4] if 0 <= i < ASK) for row in rows]
        if b"fail" in beginnings:
            self.closed = True
            raise RankError("rank 1 ended: killed", hint="See its log.")
        if b"hold" in beginnings:
            self.running.release()
            self.go.acquire()
        if not step.last.shape[1]:
            return None
        logits = np.zeros((len(rows), step.last.shape[1], VOCAB), dtype=np.float32)
        for at, row in enumerate(rows):
            for place, last in enumerate(step.last[at]):
                logits[at, place, self._next(row, int(step.positions[at, last]))] = 10.0
        return logits

    def _next(self, row: int, position: int) -> int:
        ask = np.flatnonzero(self._cache[row] == ASK)
        if not ask.size or position < ask[0]:
            return 0
        at = position - int(ask[0])
        return END if at == ask[0] else int(self._cache[row, at])

    def close(self) -> None:
        self.closed = True


def echo_model(engine: EchoEngine) -> Model:
    """Model on an engine that echoes."""
    return Model(engine, LIMITS, VOCAB, EchoTokenizer(), frozenset({END}))  # type: ignore[arg-type]  # same methods
