"""The interface of an object store.

Keys are `/`-separated and relative to the store's root. An object appears whole or not at all. ETags are opaque:
equal for equal objects of one key, and what a conditional write names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ANYTHING: Final = "anything"
NOTHING: Final = "nothing"
"""What a `put` may replace; else the ETag of the one object that it may replace."""


@dataclass(frozen=True, slots=True)
class Object:
    """`size` in bytes; `modified`: seconds since the epoch by the clock of the store."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Upload:
    """A large object that is being sent in parts of `part_size` bytes (the last one may be shorter)."""

    key: str
    id: str
    part_size: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has. `number` from 1; `crc32` in hexadecimal where the store tells it, else ""."""

    number: int
    size: int
    etag: str
    crc32: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that somebody began, at `began` seconds since the epoch."""

    key: str
    id: str
    began: float


class ObjectStore(Protocol):
    """Safe to use from many threads. Every method raises StoreError where the store cannot be reached or refuses."""

    @property
    def uri(self) -> str:
        """Of the root; ends with `/`."""

    def head(self, key: str) -> Object | None: ...

    def read(self, key: str) -> tuple[bytes, str]:
        """All of a small object, and its ETag. Raises NotFoundError."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` on. Raises NotFoundError; StoreError where the object is shorter."""

    def put(self, key: str, data: bytes, over: str = ANYTHING) -> Object:
        """Raises ConflictError where the object that is there is not the one in `over`."""

    def walk(self, prefix: str) -> Iterator[Object]:
        """Every object whose key begins so, sorted by key."""

    def children(self, folder: str) -> tuple[list[str], list[Object]]:
        """Names of the folders, and the objects, directly below `folder` ("" or ending with `/`)."""

    def delete(self, keys: Iterable[str]) -> None:
        """Objects that are gone already are no error."""

    def begin(self, key: str, part_size: int) -> Upload: ...

    def send(self, upload: Upload, number: int, data: bytes) -> Part: ...

    def sent(self, upload: Upload) -> list[Part] | None:
        """The parts that the store has; None where it does not know the upload (any more)."""

    def finish(self, upload: Upload, parts: Sequence[Part]) -> None: ...

    def abort(self, upload: Upload | Unfinished) -> None:
        """An upload that is gone already is no error."""

    def unfinished(self, prefix: str) -> Iterator[Unfinished]: ...
