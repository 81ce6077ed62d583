"""The interface of an object store.

Keys are `/`-separated and relative to the store's root. An object appears complete or not at all. ETags are opaque:
equal for equal objects of one key, and the condition of a conditional write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from compiler.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ANYTHING: Final = "anything"
NOTHING: Final = "nothing"
"""Objects that a `put` may replace: any, none, or the one whose ETag is given instead."""


def conflict(uri: str) -> ConflictError:
    """The error of a conditional write to `uri` whose condition was not met."""
    return ConflictError(
        f"{uri} was changed by another process", hint="check its new content, then run the command again"
    )


@dataclass(frozen=True, slots=True)
class Object:
    """An object in a store. `size` in bytes; `modified`: seconds since the epoch by the clock of the store."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload in parts of `part_size` bytes (the last one may be shorter)."""

    key: str
    id: str
    part_size: int


@dataclass(frozen=True, slots=True)
class UploadPart:
    """A part that the store has. `number` from 1; `crc32` in hexadecimal, "" if the store does not report it."""

    number: int
    size: int
    etag: str
    crc32: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An unfinished upload, begun at `began` seconds since the epoch."""

    key: str
    id: str
    began: float


class ObjectStore(Protocol):
    """An object store, safe to use from many threads. Every method raises StoreError if the store is unreachable or
    refuses.
    """

    @property
    def uri(self) -> str:
        """URI of the root; ends with `/`."""

    def head(self, key: str) -> Object | None:
        """Facts about one object; None if there is none."""

    def read(self, key: str) -> tuple[bytes, str]:
        """Read all of a small object; its bytes and its ETag. Raises NotFoundError."""

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` on. Raises NotFoundError; StoreError if the object is shorter."""

    def put(self, key: str, data: bytes, over: str = ANYTHING) -> Object:
        """Write an object in one request. Raises ConflictError if the object there now is not the one in `over`."""

    def walk(self, prefix: str) -> Iterator[Object]:
        """All objects whose key begins with `prefix`, sorted by key."""

    def children(self, folder: str) -> tuple[list[str], list[Object]]:
        """Names of the folders, and the objects, directly below `folder` ("" or ending with `/`)."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""

    def begin(self, key: str, part_size: int) -> Upload:
        """Begin a multipart upload."""

    def send(self, upload: Upload, number: int, data: bytes) -> UploadPart:
        """Send one part."""

    def sent(self, upload: Upload) -> list[UploadPart] | None:
        """Parts that the store has; None if the upload does not exist (any more)."""

    def finish(self, upload: Upload, parts: Sequence[UploadPart]) -> None:
        """Make the object of all parts."""

    def abort(self, upload: Upload | Unfinished) -> None:
        """Abort an upload; a missing one is no error."""

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """All unfinished uploads whose key begins with `prefix`."""
