"""Parallel transfer of parts of files by a few threads, with a digest of each file computed on the way.

Threads take parts in the order of the list. A part is hashed from its buffer after all parts before it: an early thread
waits, so at most one part per thread is in memory.
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
"""Bytes of a part: long beside a round trip, and eight of them are 128 MiB."""

FILES = 4
"""Files in flight at once."""

Job: TypeAlias = Callable[[], None]

_MIB = 1 << 20
_MOST_PARTS = 9_000
"""Limit of parts of an upload; S3 allows 10,000."""


class TransferStopped(Exception):
    """Raised in a job after another one has failed. Never leaves `Flow.run`."""


class Flow:
    """State shared by the parts of one run: progress, bytes transferred, order of hashing, stop after an error."""

    def __init__(self, progress: Callable[[int], None] = lambda _: None) -> None:
        self._progress = progress
        self._turn = threading.Condition()
        self._stopped = False
        self.transferred = 0

    def check(self) -> None:
        """Stop this job if another one has failed. Raises Stopped."""
        if self._stopped:
            raise TransferStopped

    def count(self, nbytes: int) -> None:
        """Add to the bytes transferred."""
        with self._turn:
            self.transferred += nbytes

    def passed(self, nbytes: int) -> None:
        """Report bytes that have reached their destination."""
        self._progress(nbytes)

    def run(self, jobs: Iterable[Job], threads: int = THREADS) -> None:
        """Run `jobs`, started in their order. The first error stops all of them and is raised."""
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
            if error is not None and not isinstance(error, TransferStopped):
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
        """A new digest of one file, stopped with this run."""
        return InOrder(self, self._turn)


class InOrder:
    """sha256 of a file whose parts come from many threads, in any order. Part numbers from 0."""

    def __init__(self, flow: Flow, turn: threading.Condition) -> None:
        self._flow, self._turn = flow, turn
        self._sha = hashlib.sha256()
        self._next = 0

    def update(self, number: int, data: bytes | memoryview) -> None:
        """Hash a part after all parts before `number`; waits for them. Raises Stopped."""
        with self._turn:
            while self._next != number:
                self._flow.check()
                self._turn.wait()
        self._sha.update(data)  # no lock needed: it is this part's turn; hashlib releases the interpreter's lock
        with self._turn:
            self._next += 1
            self._turn.notify_all()

    @property
    def digest(self) -> Digest:
        return "sha256:" + self._sha.hexdigest()


def in_turn(files: Iterable[Iterator[Job]], width: int = FILES) -> Iterator[Job]:
    """Interleave the jobs of `width` files: parts of one file are hashed one by one, those of several in parallel."""
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
    """Bytes of each part of a file of `size` bytes: PART, or as many whole MiB as the limit of parts requires."""
    least = -(-size // _MOST_PARTS)
    return max(PART, -(-least // _MIB) * _MIB)


def pieces(size: int, part_size: int) -> list[tuple[int, int]]:
    """Offset and length of every part of a file; one empty part for an empty file."""
    return [(start, min(part_size, size - start)) for start in range(0, size, part_size)] or [(0, 0)]
