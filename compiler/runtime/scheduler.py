"""Continuous batching: rows join the running batch between two steps, and leave it when they end.

    waiting   ->  filling            ->  decoding                     `step` does one of, in turn while there is both:
    a queue       prompts, a chunk       places 0 ... n - 1                admit waiting rows, prefill a chunk of tokens
                  at a time              of the caches                     one token for each decoding row

Fairness: rows are admitted in the order of arrival. Prompts take turns, a chunk each, so that a long one delays a short
one by one chunk for each turn; decoding rows wait for one chunk at most between two tokens. Short prompts share a
chunk's budget of tokens, each in a step of its own: the prefill of a row is the same whatever runs beside it.

Decoding rows are the first places of the caches without a gap, because a step computes the first rows. A row that ends
is replaced by the last one (`Engine.swap`); a filling row may sit at any place above.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import LmiCompileError, boundary
from compiler.runtime.commands import StepCommand
from compiler.runtime.params import TextPiece

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from compiler.model.limits import Limits
    from compiler.runtime.engine import Engine
    from compiler.runtime.row import Row
    from compiler.runtime.sampling import Row as RowLogits

CHUNK = 128
"""Most tokens of prompts between two tokens of a decoding row; an artifact's own `prefill_chunk` where it is less."""
_CACHE_STEP = 64  # positions; caches grow in such steps, so that similar requests reuse them

Event = TextPiece | LmiCompileError
"""Result of a step for one row: a piece of its answer, or the error that ended it alone."""


class Scheduler:
    """Rows in flight on an engine; at most `limits.max_batch` of them have a place in the caches."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine, self._limits = engine, limits
        self._chunk = min(CHUNK, limits.prefill_chunk)
        self._waiting: deque[Row] = deque()
        self._filling: deque[Row] = deque()
        self._places: list[Row | None] = [None] * limits.max_batch
        self._written: dict[Row, int] = {}
        self._decoding = 0
        self._prefilled = False  # the last step was one of prefill

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._filling or self._decoding)

    @property
    def running(self) -> int:
        """Rows with a place in the caches."""
        return self._decoding + len(self._filling)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def positions(self) -> int:
        """Cache positions in use."""
        decoding = sum(row.position for row in self._places[: self._decoding] if row is not None)
        return decoding + sum(self._written[row] for row in self._filling)

    def add(self, row: Row) -> None:
        """Queue a row."""
        self._waiting.append(row)

    def remove(self, row: Row) -> None:
        """Take a row out, wherever it is. A row that has ended is not there any more, and nothing happens."""
        if row in self._waiting:
            self._waiting.remove(row)
        elif row in self._filling:
            self._filling.remove(row)
            self._places[self._places.index(row)] = None
        elif row in self._places:
            self._leave(row)

    def step(self) -> list[tuple[Row, Event]]:
        """Run one step; the events of its rows in order. Raises RankError, after which no row can go on."""
        self._admit()
        self._prefilled = bool(self._filling) and not (self._decoding and self._prefilled)
        if self._prefilled:
            return self._prefill()
        return self._advance(self._places[: self._decoding], self._decode()) if self._decoding else []

    def _admit(self) -> None:
        while self._waiting and (place := self._free_place()) is not None:
            row = self._waiting.popleft()
            self._places[place] = row
            self._written[row] = 0
            self._filling.append(row)
        if self._filling:
            rows = [row for row in self._places if row is not None]
            top = max(place for place, row in enumerate(self._places) if row is not None) + 1
            longest = max(row.length for row in rows)
            step = -(-longest // _CACHE_STEP) * _CACHE_STEP
            self._engine.make_room(top, min(step, self._limits.max_positions))

    def _free_place(self) -> int | None:
        return next((place for place in range(self._decoding, len(self._places)) if self._places[place] is None), None)

    def _prefill(self) -> list[tuple[Row, Event]]:
        """Write up to a chunk of tokens of filling rows; rows whose prompt is complete get their first token."""
        events: list[tuple[Row, Event]] = []
        budget, turns = self._chunk, len(self._filling)
        while turns and budget > 0:
            row = self._filling[0]
            begin = self._written[row]
            count = min(self._chunk, len(row.prompt) - begin)
            if count > budget:
                break  # chunks are never cut by what runs beside a row
            logits = self._fill(row, begin, begin + count)
            budget, turns = budget - count, turns - 1
            self._filling.popleft()
            if logits is None:
                self._filling.append(row)
            else:
                self._join(row)
                events += self._advance([row], [logits])
        return events

    def _fill(self, row: Row, begin: int, end: int) -> RowLogits | None:
        """Write tokens begin ... end - 1 of a prompt. -> logits [vocab] after its last token."""
        length, ended = end - begin, end == len(row.prompt)
        wanted = np.arange(length if row.params.prompt_log_probs else int(ended))[None]
        last = wanted if row.params.prompt_log_probs else wanted + length - 1
        tokens, positions = np.array([row.prompt[begin:end]]), np.arange(begin, end)[None]
        logits = self._engine.step(StepCommand(tokens, positions, last, end, self._places.index(row)))
        self._written[row] = end
        if logits is not None and row.params.prompt_log_probs:
            row.read_prompt(begin, logits[0])
        return logits[0, -1] if ended and logits is not None else None

    def _join(self, row: Row) -> None:
        """Move a row whose prompt is complete to the end of the decoding rows."""
        self._swap(self._places.index(row), self._decoding)
        self._decoding += 1
        del self._written[row]

    def _leave(self, row: Row) -> None:
        """Free the place of a decoding row."""
        place = self._places.index(row)
        self._decoding -= 1
        self._swap(self._decoding, place)
        self._places[self._decoding] = None

    def _swap(self, source: int, target: int) -> None:
        if source != target:
            self._engine.swap(source, target)
            self._places[source], self._places[target] = self._places[target], self._places[source]

    def _decode(self) -> Iterable[RowLogits]:
        """Write the newest token of every decoding row into the caches. -> logits [vocab] after each."""
        rows = [row for row in self._places[: self._decoding] if row is not None]
        tokens = np.array([[row.tokens[-1].id] for row in rows])
        positions = np.array([[row.position] for row in rows])
        logits = self._engine.step(StepCommand(tokens, positions, np.zeros_like(tokens), int(positions.max()) + 1))
        assert logits is not None
        return list(logits[:, 0])

    def _advance(self, rows: Iterable[Row | None], logits: Iterable[RowLogits]) -> list[tuple[Row, Event]]:
        """Choose the next token of decoding rows; those that end leave. An exception ends its row alone."""
        events: list[tuple[Row, Event]] = []
        for row, one in zip(list(rows), logits, strict=True):
            assert row is not None
            try:
                with boundary(step="sampling"):
                    events.append((row, row.advance(one)))
            except LmiCompileError as error:
                events.append((row, error))
        for row, event in events:
            if not isinstance(event, TextPiece) or event.completion is not None:
                self._leave(row)
        return events


def run(engine: Engine, rows: Iterable[Row], limits: Limits) -> Iterator[tuple[int, TextPiece]]:
    """Generate all rows, in the order of their steps: (index of the row, piece) for every token.

    Raises:
        NumericsError, RankError: a row or the model failed.
    """
    scheduler = Scheduler(engine, limits)
    for row in rows:
        scheduler.add(row)
    while not scheduler.idle:
        for row, event in scheduler.step():
            if not isinstance(event, TextPiece):
                raise event
            yield row.index, event
