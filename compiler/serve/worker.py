"""One model, its thread, and the requests in flight: rows join and leave the running batch between two steps.

    event loop                       thread                           event loop
    submit(rows), ticket.leave()  ->  inboxes, scheduler.step()  ->   events of a step  ->  queues of tickets

The thread owns the model. It loads a model that failed again, so that a lost rank costs the requests in flight, and no
later one. An exception that belongs to one row ends that row alone (`runtime.scheduler`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Protocol

from compiler.errors import LmiCompileError
from compiler.runtime.params import TextPiece

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from compiler.model.limits import Limits
    from compiler.runtime.params import GenerationParams
    from compiler.runtime.row import Row
    from compiler.runtime.scheduler import Event

LOG = logging.getLogger(__name__)
_RETRY_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""Waiting time before each attempt to load a model that failed; the last one repeats."""


class Busy(Exception):
    """The queue is full."""


class ServerStopped(Exception):
    """The request was rejected or cut short, because the server is stopping."""


class ModelFailed(Exception):
    """The model failed, and is being loaded again."""


class Running(Protocol):
    """Subset of `runtime.scheduler.Scheduler` that the thread calls."""

    @property
    def idle(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def positions(self) -> int: ...
    def add(self, row: Row, /) -> None: ...
    def remove(self, row: Row, /) -> None: ...
    def step(self) -> list[tuple[Row, Event]]: ...


class ServedModel(Protocol):
    """Subset of `runtime.generate.Model` that the server calls."""

    @property
    def limits(self) -> Limits: ...
    def encode(self, prompt: str, /, *, special: bool) -> list[int]: ...
    def row(self, index: int, prompt: list[int], params: GenerationParams, /) -> Row: ...
    def scheduler(self) -> AbstractContextManager[Running]: ...
    def close(self) -> None: ...


class Ticket:
    """A row in flight, as its client's coroutine sees it."""

    def __init__(self, row: Row, worker: Worker) -> None:
        self.row = row
        self._worker = worker
        self._events: asyncio.Queue[TextPiece | Exception] = asyncio.Queue()

    def tell(self, event: TextPiece | Exception) -> None:
        self._events.put_nowait(event)

    async def next(self) -> TextPiece:
        """Next piece of the answer. Raises the exception that ended it."""
        event = await self._events.get()
        if not isinstance(event, TextPiece):
            raise event
        return event

    def leave(self) -> None:
        """Give the row's place to others. Nothing happens if the answer is complete."""
        self._worker.leave(self)


class Worker:
    """Thread that runs a model. `load` opens it, again after a failure; `limit`: rows that wait for a place.

    `load` is called here for the first time: its exceptions are the caller's. All methods but `close` are for the event
    loop's thread.
    """

    def __init__(self, load: Callable[[], ServedModel], limit: int) -> None:
        self._load, self._limit = load, limit
        self.model = load()
        self.failures = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = threading.Condition()
        self._joining: deque[Ticket] = deque()
        self._leaving: deque[Ticket] = deque()
        self._tickets: dict[Row, Ticket] = {}
        self._healthy, self._stopping, self._aborting = True, False, False
        self.running = self.waiting = self.positions = 0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Start the thread, for tickets of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._healthy and self._thread.is_alive()

    @property
    def queued(self) -> int:
        """Rows without a place in the caches."""
        return len(self._joining) + self.waiting

    def submit(self, rows: list[Row]) -> list[Ticket]:
        """Queue rows, all of them or none.

        Raises:
            ServerStopped, ModelFailed: no row is taken.
            Busy: more rows would wait than `limit`.
        """
        if self._stopping:
            raise ServerStopped
        if not self.healthy:
            raise ModelFailed
        if self.queued and self.queued + len(rows) > self._limit:
            raise Busy
        tickets = [Ticket(row, self) for row in rows]
        with self._wake:
            self._joining.extend(tickets)
            self._wake.notify()
        return tickets

    def leave(self, ticket: Ticket) -> None:
        with self._wake:
            self._leaving.append(ticket)
            self._wake.notify()

    def stop(self) -> None:
        """Take no more rows; those in flight go on."""
        self._stopping = True

    def abort(self) -> None:
        """End all rows in flight with ServerStopped."""
        with self._wake:
            self._stopping = self._aborting = True
            self._wake.notify()

    def close(self) -> None:
        """Abort, end the thread and close the model."""
        self.abort()
        if self._thread.ident is not None:
            self._thread.join()
        self.model.close()

    def _work(self) -> None:
        while not self._aborting:
            failed = False
            try:
                with self.model.scheduler() as scheduler:
                    self._run(scheduler)
            except Exception:  # whatever ends the model: the requests in flight end, later ones get a new one
                LOG.exception("the model failed")
                failed = True
            self._healthy = False
            self._end_all(ModelFailed() if failed else ServerStopped())
            if failed:
                self._reload()

    def _run(self, scheduler: Running) -> None:
        self._healthy = True
        while True:
            with self._wake:
                while scheduler.idle and not (self._joining or self._leaving or self._aborting):
                    self._wake.wait()
                joining, self._joining = self._joining, deque()
                leaving, self._leaving = self._leaving, deque()
            for ticket in joining:
                self._tickets[ticket.row] = ticket
                scheduler.add(ticket.row)
            for ticket in leaving:
                if self._tickets.pop(ticket.row, None) is not None:
                    scheduler.remove(ticket.row)
            if self._aborting:
                return
            events = [] if scheduler.idle else scheduler.step()
            self.running, self.waiting, self.positions = scheduler.running, scheduler.waiting, scheduler.positions
            self._deliver([(self._tickets[row], event) for row, event in events if row in self._tickets])
            for row, event in events:
                if not isinstance(event, TextPiece) or event.completion is not None:
                    self._tickets.pop(row, None)

    def _end_all(self, error: Exception) -> None:
        with self._wake:
            tickets = [*self._tickets.values(), *self._joining]
            self._tickets.clear()
            self._joining.clear()
            self._leaving.clear()
        self.running = self.waiting = self.positions = 0
        self._deliver([(ticket, error) for ticket in tickets])

    def _deliver(self, events: Sequence[tuple[Ticket, TextPiece | Exception]]) -> None:
        """Hand events to the event loop, all of a step at once."""
        if not events:
            return
        assert self._loop is not None

        def put() -> None:
            for ticket, event in events:
                ticket.tell(event)

        try:
            self._loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._aborting = True

    def _reload(self) -> None:
        self.failures += 1
        self.model.close()
        for attempt in count():
            deadline = time.monotonic() + _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
            with self._wake:
                while not self._aborting and (left := deadline - time.monotonic()) > 0:
                    self._wake.wait(left)
            if self._aborting:
                return
            try:
                self.model = self._load()
            except LmiCompileError as error:
                LOG.error("the model cannot be loaded again: %s", error.message)
            except Exception:
                LOG.exception("the model cannot be loaded again")
            else:
                LOG.info("the model is loaded again")
                return
