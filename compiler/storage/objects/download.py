"""Files out of a store: ranges by several threads. With a known digest: verified as they arrive, resumed after a kill.

    TARGET.part     preallocated; holds the ranges that have arrived, written with O_DIRECT
    TARGET.parts    {"digest", "size", "part_size"}, then the number of each of these ranges

A file gets its own name when it is complete, has the expected digest, and is on disk.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError
from compiler.storage.files.disk import disk_full, open_direct, page_aligned, sync_folder, write_direct
from compiler.storage.objects.flow import PART, Flow, in_turn, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.flow import Job
    from compiler.storage.objects.types import ObjectStore

_ROUNDS = 3
"""Attempts for a file whose bytes are wrong: damage in transit is not repeated each time."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A download of the object `key` to the file `path`. `digest` None: unknown, and not checked."""

    key: str
    path: Path
    digest: Digest | None
    size: int


def download_files(
    store: ObjectStore,
    files: Sequence[Incoming],
    *,
    threads: int,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Fetch `files`, resuming an interrupted run; the number of bytes transferred.

    Raises ArtifactError (the stored bytes do not have the expected digest), NotFoundError, StoreError, DiskFullError.
    """
    local, transferred = threading.local(), 0
    wrong: list[tuple[_Fetch, Digest]] = []
    left: Sequence[Incoming] = files
    for _ in range(_ROUNDS):
        flow = Flow(progress)
        fetches = [_Fetch(store, file, flow) for file in left]
        try:
            flow.run(in_turn(fetch.jobs(local) for fetch in fetches), threads)
        finally:
            for fetch in fetches:
                fetch.close()
        transferred += flow.transferred
        wrong = [(fetch, fetch.found) for fetch in fetches if fetch.found is not None]
        left = [fetch.file for fetch, _ in wrong]
        progress(-sum(file.size for file in left))
        if not left:
            return transferred
    problems = [f"  {store.uri}{f.file.key}: expected {f.file.digest}, found {found}" for f, found in wrong]
    raise ArtifactError(
        "\n".join([f"{len(problems)} damaged file(s) in the store, each fetched {_ROUNDS} times:", *problems]),
        hint="push the artifact again from where it was built, with `--repair`",
    )


class _Fetch:
    """Download of one file. `found`: its digest, if that is wrong."""

    def __init__(self, store: ObjectStore, file: Incoming, flow: Flow) -> None:
        self._store, self.file, self._flow = store, file, flow
        self.found: Digest | None = None
        self._pieces = pieces(file.size, PART)
        self._hasher = flow.hasher()
        self._lock = threading.Lock()
        self._there: frozenset[int] | None = None
        self._handle = -1
        self._direct: int | None = None
        self._log = -1
        self._left = len(self._pieces)
        self._part = file.path.with_name(file.path.name + ".part")
        self._parts = file.path.with_name(file.path.name + ".parts")

    def jobs(self, local: threading.local) -> Iterator[Job]:
        for number in range(len(self._pieces)):
            yield partial(self._piece, number, local)

    def _piece(self, number: int, local: threading.local) -> None:
        offset, length = self._pieces[number]
        if not hasattr(local, "buffer"):
            local.buffer = page_aligned(PART)
        view: memoryview = local.buffer[:length]
        with self._lock:
            if self._there is None:
                self._there = self._open()
            known = number in self._there
        if not known:
            if length:
                self._store.read_into(self.file.key, offset, view)
            self._write(number, offset, view)
            self._flow.count(length)
        else:
            self._read(offset, view)
        if self.file.digest is not None:
            self._hasher.update(number, view)
        self._flow.passed(length)
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish()

    def _open(self) -> frozenset[int]:
        """Open the temporary file; the numbers of the parts that an earlier run has put into it."""
        self.file.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        heading = {"digest": self.file.digest, "size": self.file.size, "part_size": PART}
        # Without a digest, the loss of noted parts in a power failure would go unnoticed.
        noted = len(self._pieces) > 1 and self.file.digest is not None
        there = self._earlier(heading) if noted else frozenset()
        if os.fstat(self._handle).st_size != self.file.size:
            os.ftruncate(self._handle, 0)
            if self.file.size:
                with self._space():
                    os.posix_fallocate(self._handle, 0, self.file.size)
            there = frozenset()
        self._direct = open_direct(self._part)
        if noted:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._log = os.open(self._parts, flags if there else flags | os.O_TRUNC, 0o644)
            os.write(self._log, b"\n" if there else json.dumps(heading).encode() + b"\n")  # ends a line cut short
        return there

    def _earlier(self, heading: Mapping[str, object]) -> frozenset[int]:
        try:
            first, *lines = self._parts.read_text().splitlines()
            if json.loads(first) != heading:
                return frozenset()
        except (FileNotFoundError, ValueError):
            return frozenset()
        return frozenset(int(line[:-1]) for line in lines if line.endswith(";"))  # else cut short by a kill

    def _read(self, offset: int, view: memoryview) -> None:
        if os.preadv(self._handle, [view], offset) != len(view):
            raise ArtifactError(f"{self._part} was truncated by another process", hint="remove it and pull again")

    def _write(self, number: int, offset: int, view: memoryview) -> None:
        with self._space():
            write_direct(self._direct, self._handle, view, offset)
        if self._log >= 0:
            os.write(self._log, b"%d;\n" % number)

    def _finish(self) -> None:
        if self.file.digest not in (None, self._hasher.digest):
            self.found = self._hasher.digest
            self.close()
            self._part.unlink()
            self._parts.unlink(missing_ok=True)
            return
        os.fsync(self._handle)
        self.close()
        self._part.chmod(0o444)
        self._part.replace(self.file.path)
        self._parts.unlink(missing_ok=True)
        sync_folder(self.file.path.parent)

    def close(self) -> None:
        """Close the files; the parts that have arrived stay for the next run."""
        for handle in (self._handle, self._direct, self._log):
            if handle is not None and handle >= 0:
                os.close(handle)
        self._handle, self._direct, self._log = -1, None, -1

    @contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise disk_full(self.file.path, self.file.size, shutil.disk_usage(self.file.path.parent).free) from error
