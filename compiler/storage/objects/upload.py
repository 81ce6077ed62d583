"""Files into a store: parts by several threads, resumed after a kill.

    JOURNAL/<digest of store and key>.jsonl     {"id", "part_size", "digest"} of an upload begun on this machine

The store lists the parts that it has; the journal says that the upload is ours, and of which bytes. Parts that are in
the store already are still read from the file, so that the digest of the published bytes is checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zlib_ng.zlib_ng import crc32

from compiler.errors import ArtifactError, StoreError
from compiler.storage.files.digest import digest_bytes, digest_json
from compiler.storage.objects.flow import Flow, in_turn, part_size_of, pieces
from compiler.storage.objects.types import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.flow import InOrder, Job
    from compiler.storage.objects.types import ObjectStore, UploadPart


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An upload of the file `path` to the object `key`. `digest` and `size` (bytes): expected ones."""

    path: Path
    key: str
    digest: Digest
    size: int


def upload_files(
    store: ObjectStore,
    files: Sequence[Outgoing],
    journal: Path,
    *,
    threads: int,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Send `files`, resuming an interrupted run; the number of bytes transferred.

    Raises ArtifactError (a file does not have the expected digest; nothing of it is published), StoreError, OSError.
    """
    flow = Flow(progress)

    def jobs(file: Outgoing) -> Iterator[Job]:
        part_size = part_size_of(file.size)
        if file.size <= part_size:
            yield partial(_small, store, file, flow)
        else:
            upload = _Multipart(store, file, journal, part_size, flow)
            for number in range(len(upload.pieces)):
                yield partial(upload.part, number)

    flow.run(in_turn(jobs(file) for file in files), threads)
    return flow.transferred


def _small(store: ObjectStore, file: Outgoing, flow: Flow) -> None:
    data = file.path.read_bytes()
    _check(file, digest_bytes(data), len(data))
    store.put(file.key, data)
    flow.count(len(data))
    flow.passed(len(data))


def _check(file: Outgoing, digest: Digest, size: int) -> None:
    if (digest, size) != (file.digest, file.size):
        raise ArtifactError(
            f"{file.path}: expected {file.size} bytes with {file.digest}, found {size} with {digest}",
            hint="build the artifact again: the file was changed after the build",
        )


class _Multipart:
    """Multipart upload of one file. The first part looks into the journal for an earlier upload to resume."""

    def __init__(
        self,
        store: ObjectStore,
        file: Outgoing,
        journal: Path,
        part_size: int,
        flow: Flow,
    ) -> None:
        self._store, self._file, self._flow = store, file, flow
        self._journal = journal / f"{digest_json([store.uri, file.key])[7:39]}.jsonl"
        self._part_size = part_size
        self.pieces = pieces(file.size, part_size)
        self._hasher: InOrder = flow.hasher()
        self._lock = threading.Lock()
        self._upload: Upload | None = None
        self._there: dict[int, UploadPart] = {}
        self._done: list[UploadPart] = []

    def part(self, number: int) -> None:
        offset, length = self.pieces[number]
        with self._lock:
            if self._upload is None:
                self._upload = self._begin()
            upload = self._upload
        data = self._read(offset, length)
        sent = self._there.get(number + 1)
        if sent is None or not _is(sent, data):
            sent = self._store.send(upload, number + 1, data)
            self._flow.count(length)
        self._hasher.update(number, data)
        self._flow.passed(length)
        with self._lock:
            self._done.append(sent)
            last = len(self._done) == len(self.pieces)
        if last:
            self._finish(upload)

    def _read(self, offset: int, length: int) -> bytes:
        file = os.open(self._file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(file, length, offset)
        finally:
            os.close(file)
        if len(data) != length:
            _check(self._file, "an unknown digest", offset + len(data))
        return data

    def _begin(self) -> Upload:
        """The upload of an earlier run if it is of these bytes and still exists, else a new one."""
        found = self._file.path.stat().st_size
        if found != self._file.size:
            _check(self._file, "an unknown digest", found)
        known = self._known()
        if known is not None:
            there = self._store.sent(known)
            if there is not None:
                self._there = {part.number: part for part in there}
                return known
        upload = self._store.begin(self._file.key, self._part_size)
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        entry = {"id": upload.id, "part_size": upload.part_size, "digest": self._file.digest}
        part = self._journal.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(entry))
        part.replace(self._journal)
        return upload

    def _known(self) -> Upload | None:
        try:
            entry = json.loads(self._journal.read_text())
            upload = Upload(self._file.key, str(entry["id"]), int(entry["part_size"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if entry.get("digest") == self._file.digest and upload.part_size == self._part_size:
            return upload
        self._store.abort(upload)
        return None

    def _finish(self, upload: Upload) -> None:
        if self._hasher.digest != self._file.digest:
            self._store.abort(upload)
            self._journal.unlink(missing_ok=True)
            _check(self._file, self._hasher.digest, self._file.size)
        try:
            self._store.finish(upload, self._done)
        except StoreError:
            # The server may have finished the upload, and its answer was lost.
            there = self._store.head(self._file.key)
            if there is None or there.size != self._file.size:
                raise
        self._journal.unlink(missing_ok=True)


def _is(part: UploadPart, data: bytes) -> bool:
    """Whether a part in the store equals `data`, by its CRC-32 if the store reports it, else by its ETag as MD5."""
    if part.crc32:
        return part.size == len(data) and part.crc32 == f"{crc32(data):08x}"
    return part.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


@contextmanager
def journal_lock(journal: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Lock of a journal: one process of this machine uploads, others wait; they call `waiting` first."""
    journal.mkdir(parents=True, exist_ok=True)
    with (journal / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
