"""Conditional writes, and which of them a store really supports: some servers accept a condition and ignore it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.errors import ConflictError, StoreError
from compiler.storage.objects.types import ANYTHING, NOTHING, conflict

if TYPE_CHECKING:
    from compiler.storage.objects.types import Object, ObjectStore


@dataclass(frozen=True)
class Conditions:
    """Conditional writes that a store supports. `absent`: If-None-Match, a write that never replaces an object.
    `match`: If-Match, a write that replaces only the object with the given ETag, and does replace that one.
    """

    absent: bool
    match: bool

    @property
    def warning(self) -> str:
        """Warning for a user; "" if the store supports both."""
        lacking = [
            *([] if self.absent else ["If-None-Match"]),
            *([] if self.match else ["If-Match"]),
        ]
        if not lacking:
            return ""
        return (
            f"this server does not support {' and '.join(lacking)}: two commands that move one tag at the same moment "
            "can undo each other; files and manifests are safe, their names are their digests"
        )


def probe(store: ObjectStore, folder: str) -> Conditions:
    """Test a store's conditional writes with a small object below `folder`, removed afterwards. Raises StoreError."""
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
    except StoreError:  # 501 of a server that refuses conditions
        return False
    return False


def put_if(store: ObjectStore, conditions: Conditions, key: str, data: bytes, over: str) -> Object:
    """Write on a condition, as `store.put`; if the store does not support the condition, check it before the write.

    Another process can write between that check and the write. Raises ConflictError, StoreError.
    """
    supported = {ANYTHING: True, NOTHING: conditions.absent}.get(over, conditions.match)
    if supported:
        return store.put(key, data, over)
    there = store.head(key)
    if (there.etag if there else NOTHING) != over:
        raise conflict(store.uri + key)
    return store.put(key, data, ANYTHING)
