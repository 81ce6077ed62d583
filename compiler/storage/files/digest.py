"""Identity of bytes: sha256 digests, descriptors of files, canonical JSON, and a memo of computed digests.

A digest is written as the OCI image specification writes it: `sha256:` and 64 lower-case hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from compiler.storage.files.crc import Crc, crc_file

Digest: TypeAlias = str
"""`sha256:<64 hexadecimal digits>`."""

SAFETENSORS = "application/vnd.safetensors"
JSON = "application/json"
OCTETS = "application/octet-stream"

_ALWAYS_HASHED = 1 << 20
"""Files below this size (bytes) are not memoized: hashing one takes less than a millisecond, and a small file can be
rewritten within one tick of the file system's clock, which no memo of time stamps would notice."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One file of an artifact: path relative to the artifact's folder (with `/`), media type, digest, size in bytes.
    `crc`: see storage/files/crc.py; None if it was not computed.
    """

    path: str
    media_type: str
    digest: Digest
    size: int
    crc: Crc | None = None


def canonical_json(obj: Any) -> bytes:
    """Canonical JSON of a value: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinities."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def digest_bytes(data: bytes) -> Digest:
    """sha256 of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(obj: Any) -> Digest:
    """Digest of a value's canonical JSON: a key for results that depend on this value alone."""
    return digest_bytes(canonical_json(obj))


def sha256_file(path: Path) -> Digest:
    """Digest of a file's bytes, read once from front to back. Raises OSError."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path, path: str, media_type: str = OCTETS) -> Descriptor:
    """Read `folder / path` and make its descriptor. Raises OSError."""
    file = folder / path
    return Descriptor(path, media_type, sha256_file(file), file.stat().st_size, crc_file(file))


class DigestMemo:
    """Memo of file digests by absolute path, size, modification time (ns) and inode.

    `file` holds one JSON array a line, `[path, size, mtime_ns, inode, digest]`; the last line for a path
    counts. A line is appended by one `write` to a descriptor opened with O_APPEND, so processes may share the
    file. A line cut short by a kill does not parse and is skipped, as is the line appended to it: both files are
    hashed again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known: dict[str, tuple[int, int, int, Digest]] | None = None

    def sha256(self, path: Path, *, rehash: bool = False) -> Digest:
        """Digest of `path`, from the memo if the file is unchanged; `rehash`: compute it anyway. Raises OSError."""
        absolute = str(path.absolute())
        before = path.stat()
        if before.st_size < _ALWAYS_HASHED:
            return sha256_file(path)
        identity = (before.st_size, before.st_mtime_ns, before.st_ino)
        known = self._load().get(absolute)
        if known is not None and known[:3] == identity and not rehash:
            return known[3]
        digest = sha256_file(path)
        after = path.stat()
        if identity == (after.st_size, after.st_mtime_ns, after.st_ino) and known != (*identity, digest):
            self._remember(absolute, identity, digest)
        return digest

    def remember(self, path: Path, digest: Digest) -> None:
        """Add the digest of a file that was computed while writing it. Raises OSError if the file is missing."""
        found = path.stat()
        if found.st_size >= _ALWAYS_HASHED:
            self._remember(str(path.absolute()), (found.st_size, found.st_mtime_ns, found.st_ino), digest)

    def _load(self) -> dict[str, tuple[int, int, int, Digest]]:
        if self._known is None:
            try:
                lines = self.file.read_bytes().split(b"\n")
            except OSError:
                lines = []
            self._known = {}
            for line in lines:
                try:
                    path, size, mtime_ns, inode, digest = json.loads(line)
                    self._known[path] = (int(size), int(mtime_ns), int(inode), str(digest))
                except (ValueError, TypeError):
                    continue
            if len(lines) > 2 * len(self._known) + 100:
                self._rewrite()
        return self._known

    def _remember(self, path: str, identity: tuple[int, int, int], digest: Digest) -> None:
        self._load()[path] = (*identity, digest)
        with suppress(OSError):  # a read-only home, as in many containers: hashed again next time
            self.file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, _line(path, (*identity, digest)))
            finally:
                os.close(descriptor)

    def _rewrite(self) -> None:
        """Drop superseded lines. A line that another process appends meanwhile is lost: hashed again."""
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        part.write_bytes(b"".join(_line(path, entry) for path, entry in (self._known or {}).items()))
        part.replace(self.file)


def _line(path: str, entry: tuple[int, int, int, Digest]) -> bytes:
    return json.dumps([path, *entry], ensure_ascii=True).encode("ascii") + b"\n"
