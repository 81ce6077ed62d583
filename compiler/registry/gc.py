"""Garbage collection: remove unreferenced objects of a store.

Kept: artifacts that a tag points to, pointed to lately, or would point to after rollbacks (`keep` of each kind per
tag); objects leased by a running push (lease.py); anything younger than the grace period. Only objects under keys of
the layout (layout.py) are ever touched. Live objects are determined anew, leases first, less than SETTLE seconds before
each batch is deleted; manifests are deleted before their files, so that no manifest is ever without its files.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import NotFoundError, StoreError, UsageError
from compiler.registry.address import parse_address
from compiler.registry.layout import FLEET, LEASES, PROBES, Layout
from compiler.registry.lease import SETTLE, SHORTEST_GRACE, leased_keys
from compiler.registry.record import read_ref
from compiler.registry.resolve import read_artifact
from compiler.report import Report, Silent, amount
from compiler.storage.objects import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import Object, ObjectStore, Unfinished

DAY = 86400.0
_BATCH = 200
_HEX = "[0-9a-f]{64}"
_MANIFEST = re.compile(rf"([^/]+)/(?:({_HEX})/manifest\.json|manifests/({_HEX})\.json)")
_REF = re.compile(r"([^/]+)/refs/([^/]+)\.json")
_OURS = re.compile(
    rf"[^/]+/(?:{_HEX}/.+|manifests/{_HEX}\.json.*)|blobs/sha256/{_HEX}|{LEASES}.+|{PROBES}.+|{re.escape(FLEET)}.+"
)


@dataclass(frozen=True)
class Collected:
    """Removed keys and aborted unfinished `uploads`, or those that would be (`dry_run`)."""

    keys: tuple[str, ...]
    nbytes: int
    uploads: tuple[str, ...]
    kept: int
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def collect(
    uri: str, report: Report | None = None, *, grace: float = 7 * DAY, keep: int = 5, dry_run: bool = False
) -> Collected:
    """Remove unreferenced objects of the store `uri`.

    `grace`: seconds, at least an hour; `keep`: artifacts kept for each tag, at least 2.

    Raises UsageError, StoreError, ArtifactError (a tag or a live manifest is damaged: nothing is removed).
    """
    report = report or Silent()
    address = parse_address(uri)
    if address.name is not None:
        raise UsageError(f"`{uri}` is an artifact", hint=f"pass its store: `{address.root}`")
    if grace < SHORTEST_GRACE or keep < 2:
        raise UsageError(
            f"expected a grace period of 1 h and 2 artifacts per tag or more, found {grace / 3600:g} h and {keep}",
            hint="raise `--grace-hours` or `--keep`: younger objects may belong to a running push",
        )
    store = open_store(address.root)
    report.begin("gc")
    found = _look(store, grace, keep)
    dead, nbytes, gone = found.dead, sum(item.size for item in found.dead), list[str]()
    if not dry_run:
        while found.dead:
            batch = found.dead[:_BATCH]
            if time.monotonic() - found.looked > SETTLE / 2:
                raise StoreError(
                    f"expected to list the store in {SETTLE / 2:g} s, it took longer: leases may be out of date",
                    hint="run it on a machine closer to the store",
                )
            store.delete(item.key for item in batch)
            gone += [item.key for item in batch]
            report.progress(len(gone), max(len(dead), len(gone)), "objects")
            found = _look(store, grace, keep)
        nbytes = sum(item.size for item in dead if item.key in set(gone))
        for upload in found.uploads:
            store.abort(upload)
    keys = tuple(gone) if not dry_run else tuple(item.key for item in dead)
    uploads = tuple(upload.key for upload in found.uploads)
    verb = "would be removed" if dry_run else "removed"
    report.end(f"{len(keys)} objects, {amount(nbytes, 'bytes')}, and {len(uploads)} unfinished uploads {verb}")
    return Collected(keys, nbytes, uploads, found.kept, dry_run)


@dataclass(frozen=True)
class _Found:
    """State of a store. `dead`: manifests first. `looked`: time.monotonic() when the leases were read."""

    dead: list[Object]
    uploads: list[Unfinished]
    kept: int
    looked: float


def _look(store: ObjectStore, grace: float, keep: int) -> _Found:
    oldest = _now(store) - grace
    looked = time.monotonic()
    leased = leased_keys(store, oldest)
    objects = {item.key: item for item in store.walk("")}  # after the leases: see lease.py
    alive = set(leased) | _alive(store, objects.values(), oldest, keep)
    ours = [item for item in objects.values() if _OURS.fullmatch(item.key)]
    dead = [item for item in ours if item.key not in alive and item.modified < oldest]
    dead = [item for item in dead if _beside(item.key) not in alive]
    dead.sort(key=lambda item: (_MANIFEST.fullmatch(item.key) is None, item.key))
    uploads = [upload for upload in store.unfinished("") if _OURS.fullmatch(upload.key) and upload.began < oldest]
    return _Found(dead, uploads, len(ours) - len(dead), looked)


def _beside(key: str) -> str:
    """Key of the manifest that a signature's key belongs to; other keys unchanged."""
    return re.sub(rf"((?:^|/)(?:manifest|{_HEX})\.json)\..*$", r"\1", key)


def _alive(store: ObjectStore, objects: Iterable[Object], oldest: float, keep: int) -> set[str]:
    """Keys of live manifests and of their files."""
    manifests: dict[tuple[str, Digest, Layout], Object] = {}
    marked: set[tuple[str, Digest]] = set()
    for item in objects:
        if found := _MANIFEST.fullmatch(item.key):
            layout: Layout = "plain" if found[2] else "cas"
            manifests[(found[1], f"sha256:{found[2] or found[3]}", layout)] = item
        elif found := _REF.fullmatch(item.key):
            ref = read_ref(store, found[1], found[2])
            if ref is not None:
                marked |= {(found[1], entry.digest) for entry in (*ref.past[-keep:], *ref.log[-keep:])}
    alive: set[str] = set()
    for (name, digest, layout), item in manifests.items():
        if (name, digest) in marked or item.modified >= oldest:
            try:
                resolved = read_artifact(store, name, digest, layout)
            except NotFoundError:  # removed by another gc
                continue
            alive |= {item.key, *(resolved.key(file) for file in resolved.manifest.files)}
    return alive


def _now(store: ObjectStore) -> float:
    """Current time by the store's clock, seconds since the epoch."""
    key = f"{PROBES}{secrets.token_hex(8)}"
    written = store.put(key, b"")
    there = store.head(key)
    store.delete([key])
    return there.modified if there else written.modified
