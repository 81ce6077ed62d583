"""Leases: objects that a running push (or promote) needs, and that `gc` must keep.

    .leases/<id>.json     {"keys": [...]}, exists while the push runs

A push does not send an object again that the store has already; `gc` must not remove it meanwhile. So the push writes
its lease first and looks for objects afterwards, and `gc` reads the leases less than SETTLE seconds before it deletes.
Only a `gc` that read the leases just before this one was written can still delete: that ends after SETTLE seconds, and
objects found then stay. Only objects old enough to be collected need that wait.
"""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from compiler.errors import NotFoundError
from compiler.registry.layout import LEASES
from compiler.storage.files.digest import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from compiler.storage.objects.types import Object, ObjectStore

SETTLE = 10.0
SHORTEST_GRACE = 3600.0
"""Seconds: `gc` never removes younger objects."""


class Lease:
    """Lease of objects, held during its context."""

    def __init__(self, store: ObjectStore, keys: Iterable[str]) -> None:
        self._store = store
        self._key = f"{LEASES}{secrets.token_hex(8)}.json"
        self._data = canonical_json({"keys": sorted(keys)})
        self._began = self._written = 0.0

    def __enter__(self) -> Self:
        self._written = self._store.put(self._key, self._data).modified
        there = self._store.head(self._key)
        self._written = there.modified if there else self._written  # by the clock of the store
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.delete([self._key])

    @property
    def is_young(self) -> bool:
        """Whether objects written under this lease are too young for any `gc` and need no `look`.

        Some servers read an object from end to end for one.
        """
        return time.monotonic() - self._began < SHORTEST_GRACE / 2

    def look(self, keys: Sequence[str]) -> dict[str, Object]:
        """Objects among `keys` that exist now."""
        with ThreadPoolExecutor(8, "head") as pool:
            return {item.key: item for item in pool.map(self._store.head, keys) if item is not None}

    def settled(self, keys: Sequence[str]) -> dict[str, Object]:
        """Objects among `keys` that exist, and stay while the lease is held. May wait SETTLE seconds."""
        found = self.look(keys)
        if any(item.modified < self._written - SHORTEST_GRACE / 2 for item in found.values()):
            time.sleep(max(SETTLE - (time.monotonic() - self._began), 0.0))
            found = self.look(keys)
        return found


def leased_keys(store: ObjectStore, newer_than: float) -> frozenset[str]:
    """Keys in all leases written after `newer_than` (seconds since the epoch, the store's clock)."""
    keys: set[str] = set()
    for item in store.walk(LEASES):
        if item.modified >= newer_than:
            with suppress(NotFoundError):  # its push has ended: its manifest protects the objects now
                data, _ = store.read(item.key)
                keys.update(json.loads(data)["keys"])
    return frozenset(keys)
