"""Many parts of many files at once, by a few threads; and a digest of each file, taken while its parts pass by.

Threads take parts in the order of the list. A part is hashed from the buffer that it was read into, when all parts
before it have been: a thread that is early waits, so at most one part a thread is in memory.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from compiler.storage.files.digest import Digest

THREADS = 8
PART = 16 << 20
"""Bytes of a part: a round trip is short beside it, and eight of them are 128 MiB."""

FILES = 4
"""Files that are under way at once."""

Job: TypeAlias = Callable[[], None]

_MIB = 1 << 20
_MOST_PARTS = 9_000
"""S3 takes 10,000."""


class Stopped(Exception):
    """Another part has failed: this one gives up. Never leaves `run`."""


class Flow:
    """What the parts of one `run` share."""

    def __init__(self, progress: Callable[[int], None] = lambda _: None) -> None:
        self._progress = progress
        self._turn = threading.Condition()
        self._stopped = False

    def check(self) -> None:
        """Raises Stopped where another part has failed."""
        if self._stopped:
            raise Stopped

    def passed(self, nbytes: int) -> None:
        """Tell of bytes that are where they belong."""
        self._progress(nbytes)

    def run(self, jobs: Iterable[Job], threads: int = THREADS) -> None:
        """Run `jobs`, begun in their order. The first error ends all and is raised."""
        with ThreadPoolExecutor(threads, "transfer") as pool:
            futures = [pool.submit(self._run, job) for job in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # an interrupt
                self._stop()
                raise
            finally:
                for future in futures:
                    future.cancel()
        errors = [future.exception() for future in futures if not future.cancelled()]
        for error in errors:
            if error is not None and not isinstance(error, Stopped):
                raise error

    def _run(self, job: Job) -> None:
        self.check()
        try:
            job()
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def hasher(self) -> InOrder:
        return InOrder(self, self._turn)


class InOrder:
    """sha256 of a file whose parts come from many threads. Part numbers from 0."""

    def __init__(self, flow: Flow, turn: threading.Condition) -> None:
        self._flow, self._turn = flow, turn
        self._sha = hashlib.sha256()
        self._next = 0

    def update(self, number: int, data: bytes | memoryview) -> None:
        """Waits until all parts before `number` are in. Raises Stopped."""
        with self._turn:
            while self._next != number:
                self._flow.check()
                self._turn.wait()
        self._sha.update(data)  # whose turn it is works alone, and lets go of the interpreter's lock
        with self._turn:
            self._next += 1
            self._turn.notify_all()

    @property
    def digest(self) -> Digest:
        return "sha256:" + self._sha.hexdigest()


def in_turn(files: Iterable[Iterator[Job]], width: int = FILES) -> Iterator[Job]:
    """The jobs of a few files at a time, one of each in turn: a digest is taken by one thread, those of several by
    several.
    """
    waiting = iter(files)
    begun = deque(islice(waiting, width))
    while begun:
        file = begun.popleft()
        job = next(file, None)
        if job is None:
            begun.extend(islice(waiting, 1))
        else:
            yield job
            begun.append(file)


def part_size_of(size: int) -> int:
    """Bytes of each part of a file of `size` bytes: PART, or whole MiB so that the parts are not too many."""
    least = -(-size // _MOST_PARTS)
    return max(PART, -(-least // _MIB) * _MIB)


def pieces(size: int, part_size: int) -> list[tuple[int, int]]:
    """(offset, length) of every part; one empty part for an empty file."""
    return [(start, min(part_size, size - start)) for start in range(0, size, part_size)] or [(0, 0)]
