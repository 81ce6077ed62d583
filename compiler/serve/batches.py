"""Queue of requests to one model: whenever the model is free, the queued requests run as one batch.

A batch ends when its longest row ends. Later requests wait for the next batch: rows do not join a running one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from compiler.errors import LmiCompileError, RankError, boundary
from compiler.runtime.params import GenerationParams, TextPiece


class Busy(Exception):
    """The queue is full."""


class ServerStopped(Exception):
    """The request was rejected or cut short: the server is stopping, or its model has failed."""


class ServedModel(Protocol):
    """Subset of `runtime.generate.Model` that the queue calls."""

    def check(self, prompt: str, params: GenerationParams) -> list[int]: ...
    def stream_batch(
        self, prompts: Sequence[Sequence[int]], params: Sequence[GenerationParams]
    ) -> Generator[tuple[int, TextPiece | LmiCompileError], None, None]: ...


Event = TextPiece | LmiCompileError | ServerStopped


@dataclass
class _Request:
    """A request in flight. `gone`: its client stopped reading; `over`: its last event was sent."""

    prompt: str
    params: GenerationParams
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    gone: bool = False
    over: bool = False

    def tell(self, event: Event) -> None:
        if not self.over:
            self.over = not isinstance(event, TextPiece) or event.completion is not None
            self.events.put(event)


class Batches:
    """Thread that runs the model on queued requests. `most`: rows of a batch; `limit`: queued requests."""

    def __init__(self, model: ServedModel, most: int, limit: int) -> None:
        self._model, self._most = model, most
        self._waiting: queue.Queue[_Request | None] = queue.Queue()
        self._limit = limit
        self._lock = threading.Lock()
        self._closed = False
        self._abort = threading.Event()
        self._failure: RankError | None = None
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the model can still answer."""
        return self._failure is None and self._thread.is_alive()

    def answer(self, prompt: str, params: GenerationParams) -> Generator[TextPiece, None, None]:
        """Stream of the answer, token by token. Closing the generator abandons the request.

        Raises, at the first piece or later:
            UsageError, TokenizerError, RefusedError: as `Model.stream`.
            InternalError: a bug; it ends this request, or a batch, and no other.
            RankError: the model has failed, now or before.
            Busy, Stopped: the request was rejected, or cut short.
        """
        mine = _Request(prompt, params)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closed or not self._thread.is_alive():
                raise ServerStopped
            if self._waiting.qsize() >= self._limit:
                raise Busy
            self._waiting.put(mine)
        try:
            while True:
                event = mine.events.get()
                if not isinstance(event, TextPiece):
                    raise event
                yield event
                if event.completion is not None:
                    return
        finally:
            mine.gone = True

    def abort(self) -> None:
        """Cut short all requests in flight, between two tokens."""
        self._abort.set()

    def close(self) -> None:
        """Drain the queue, and end the thread."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while self._failure is None and (batch := self._next_batch()) is not None:
                self._run(batch)
        finally:
            # An unforeseen exception must not leave clients waiting for ever.
            with self._lock:
                self._closed = True
                while not self._waiting.empty():
                    left = self._waiting.get()
                    if left is not None:
                        left.tell(self._failure or ServerStopped())

    def _next_batch(self) -> list[_Request] | None:
        """Queued requests, at most a batch of them; None once the queue is closed."""
        first = self._waiting.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self._most:
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._waiting.put(None)
                break
            batch.append(following)
        return batch

    def _run(self, batch: Sequence[_Request]) -> None:
        """Run a batch. Every request gets a last event, whatever happens, and the thread lives."""
        end: LmiCompileError | ServerStopped = ServerStopped()
        try:
            with boundary(step="batch", rows=len(batch)):
                rows = [(ids, row) for row in batch if (ids := self._checked(row)) is not None]
                if rows:
                    self._compute([ids for ids, _ in rows], [row for _, row in rows])
        except LmiCompileError as error:
            end = error
            if isinstance(error, RankError):
                self._failure = error
        for row in batch:
            row.tell(end)

    def _checked(self, row: _Request) -> list[int] | None:
        """Token ids of a request; None for one that cannot run, which gets the error as its last event."""
        if self._abort.is_set():
            return None
        try:
            with boundary(step="check", characters=len(row.prompt), parameters=row.params):
                return self._model.check(row.prompt, row.params)
        except LmiCompileError as error:
            row.tell(error)
            return None

    def _compute(self, prompts: Sequence[Sequence[int]], rows: Sequence[_Request]) -> None:
        with closing(self._model.stream_batch(prompts, [row.params for row in rows])) as pieces:
            for index, piece in pieces:
                rows[index].tell(piece)
                if self._abort.is_set() or all(row.gone or row.over for row in rows):
                    return
