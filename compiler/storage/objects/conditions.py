"""Which conditional writes a store really honours. Some servers accept the condition and ignore it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.errors import ConflictError, StoreError
from compiler.storage.objects.types import ANYTHING, NOTHING

if TYPE_CHECKING:
    from compiler.storage.objects.types import Object, ObjectStore


@dataclass(frozen=True)
class Conditions:
    """`absent`: a write that may replace nothing never does. `match`: one that names what it replaces replaces
    nothing else, and succeeds when it is there.
    """

    absent: bool
    match: bool

    @property
    def warning(self) -> str:
        """What to tell a user, "" where both hold."""
        lacking = [
            *([] if self.absent else ["If-None-Match"]),
            *([] if self.match else ["If-Match"]),
        ]
        if not lacking:
            return ""
        return (
            f"this server does not honour {' and '.join(lacking)}: two commands that move one ref at the same moment "
            "can undo each other; files and manifests are safe, their names are their digests"
        )


def probe(store: ObjectStore, folder: str) -> Conditions:
    """Find out by writing a small object below `folder`, which is removed again. Raises StoreError."""
    key = f"{folder}{secrets.token_hex(8)}"
    first = store.put(key, b"1")
    try:
        absent = _conflicts(store, key, NOTHING)
        stale = _conflicts(store, key, '"0123456789abcdef0123456789abcdef"')
        there = store.head(key) or first
        match = stale and not _conflicts(store, key, there.etag)
    finally:
        store.delete([key])
    return Conditions(absent, match)


def _conflicts(store: ObjectStore, key: str, over: str) -> bool:
    try:
        store.put(key, b"2", over)
    except ConflictError:
        return True
    except StoreError:  # 501 of a server that knows that it cannot
        return False
    return False


def put_if(store: ObjectStore, conditions: Conditions, key: str, data: bytes, over: str) -> Object:
    """`store.put`, by a look before the write where the store does not honour the condition itself.

    Between the look and the write somebody else can write. Raises ConflictError, StoreError.
    """
    honoured = {ANYTHING: True, NOTHING: conditions.absent}.get(over, conditions.match)
    if honoured:
        return store.put(key, data, over)
    there = store.head(key)
    if (there.etag if there else NOTHING) != over:
        raise ConflictError(f"{store.uri}{key} is not what it was expected to be", hint="look again, then decide again")
    return store.put(key, data, ANYTHING)
