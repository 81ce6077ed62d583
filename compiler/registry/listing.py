"""Listing of a store: names, their tags, their artifacts."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import NotFoundError
from compiler.registry.address import is_digest, parse_address
from compiler.registry.layout import Layout, manifest_key
from compiler.registry.record import read_ref, tags
from compiler.registry.resolve import Resolved, read_artifact
from compiler.storage.objects import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import ObjectStore


@dataclass(frozen=True)
class Listed:
    """One artifact. `tags`: those that point to it now; `published`: UTC, when its manifest was written."""

    name: str
    digest: Digest
    layout: Layout
    tags: tuple[str, ...]
    target: str
    tp: int
    files: int
    nbytes: int
    published: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def listing(uri: str) -> list[Listed]:
    """List the artifacts of a store, or of one name in it; the newest of a name first.

    Raises NotFoundError (no artifact of that name), StoreError, ArtifactError.
    """
    address = parse_address(uri)
    store = open_store(address.root)
    if address.name is None:
        return [line for name in _names(store) for line in _of(store, name)]
    lines = _of(store, address.name)
    if not lines:
        raise NotFoundError(
            f"{store.uri} has no artifact `{address.name}`",
            hint=f"list its artifacts with `lmi-compile ls {store.uri}`",
        )
    return [line for line in lines if address.ref is None or address.ref in (*line.tags, line.digest)]


def artifacts(store: ObjectStore, name: str) -> Iterator[tuple[Resolved, float]]:
    """All complete artifacts of a name, each with the time of its manifest (seconds since the epoch)."""
    folders, _ = store.children(f"{name}/")
    for folder in folders:
        digest = f"sha256:{folder}"
        if is_digest(digest):
            there = store.head(manifest_key(name, digest, "plain"))
            if there is not None:  # else its push is still running, or was abandoned
                yield read_artifact(store, name, digest, "plain"), there.modified
    _, objects = store.children(f"{name}/manifests/")
    for item in objects:
        digest = "sha256:" + item.key.rpartition("/")[2].removesuffix(".json")
        if is_digest(digest):
            yield read_artifact(store, name, digest, "cas"), item.modified


def _of(store: ObjectStore, name: str) -> list[Listed]:
    refs = [ref for tag in tags(store, name) if (ref := read_ref(store, name, tag)) is not None]
    lines = []
    for found, written in sorted(artifacts(store, name), key=lambda pair: -pair[1]):
        manifest = found.manifest
        lines.append(
            Listed(
                name,
                found.digest,
                found.layout,
                tuple(ref.tag for ref in refs if ref.now.digest == found.digest),
                manifest.target,
                manifest.parallel.tp,
                len(manifest.files),
                sum(file.size for file in manifest.files),
                datetime.datetime.fromtimestamp(written, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )
    return lines


def _names(store: ObjectStore) -> list[str]:
    """Names in a store: folders at the root with tags or artifacts; a local store may have other folders."""
    names = []
    for name in store.children("")[0]:
        folders, _ = store.children(f"{name}/")
        if "refs" in folders or "manifests" in folders or any(is_digest(f"sha256:{folder}") for folder in folders):
            names.append(name)
    return names
