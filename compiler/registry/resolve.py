"""Resolve an address to one immutable artifact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.manifest import MANIFEST, load_manifest, parse_manifest
from compiler.artifact.sign import SIGNATURE, check_signature
from compiler.errors import ArtifactError, NotFoundError, UsageError
from compiler.registry.address import Address, is_digest, parse_address
from compiler.registry.layout import LAYOUTS, Layout, file_key, manifest_key
from compiler.registry.record import read_ref, tags
from compiler.storage.files.digest import digest_bytes
from compiler.storage.objects import open_store

if TYPE_CHECKING:
    from compiler.artifact.manifest import ArtifactFile, Manifest
    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import ObjectStore

_TRIES = 3


@dataclass(frozen=True)
class Resolved:
    """An immutable artifact in a store. `data`: the manifest's bytes, whose digest is `digest`. `ref`: the tag that
    pointed to it; None: the digest was given.
    """

    store: ObjectStore
    name: str
    digest: Digest
    layout: Layout
    data: bytes
    ref: str | None = None

    @cached_property
    def manifest(self) -> Manifest:
        """The parsed manifest. Raises ArtifactError if this version cannot read it."""
        return parse_manifest(self.data, self.store.uri + self.manifest_key)

    @property
    def manifest_key(self) -> str:
        """Key of the manifest in the store."""
        return manifest_key(self.name, self.digest, self.layout)

    @property
    def uri(self) -> str:
        """URI: for `plain` the immutable prefix, ending with `/`, which SageMaker can mount; for `cas` the manifest."""
        uri = self.store.uri + self.manifest_key
        return uri.removesuffix(MANIFEST) if self.layout == "plain" else uri

    @property
    def address(self) -> str:
        """Address by digest: STORE/NAME@sha256:..."""
        return f"{self.store.uri}{self.name}@{self.digest}"

    def key(self, file: ArtifactFile) -> str:
        """Key of one of the manifest's files in the store."""
        return file_key(self.name, self.digest, self.layout, file.path, file.digest)


def manifest_of(text: str) -> Manifest:
    """Manifest of the artifact in the folder `text`, else of the one at the address `text`. Raises as `resolve`."""
    if (Path(text) / MANIFEST).is_file():
        return load_manifest(Path(text))
    return resolve(text).manifest


def resolve(uri: str) -> Resolved:
    """Find the artifact that `uri` (address.py) points to now; without a tag, `current`.

    Raises UsageError, NotFoundError (with the existing tags), StoreError, ArtifactError (the manifest in the store is
    damaged).
    """
    address = parse_address(uri)
    if address.name is None:
        raise UsageError(f"`{uri}` is a store", hint=f"pass an artifact in it: `{address.root}NAME@TAG`")
    store = open_store(address.root)
    tag = address.ref or "current"
    if is_digest(tag):
        return find_artifact(store, address.name, tag)
    ref = read_ref(store, address.name, tag)
    if ref is None:
        raise _no_ref(store, address, tag)
    return read_artifact(store, address.name, ref.now.digest, ref.now.layout, tag)


def resolve_signed(uri: str, key: Path | None) -> Resolved:
    """Find an artifact and, with `key`, require a signature by one of the public keys in that PEM file, before any file
    but the manifest is fetched.

    Raises as `resolve`; SignatureError, UsageError (no such key).
    """
    found = resolve(uri)
    if key is not None:
        file = found.manifest_key + SIGNATURE.removeprefix(MANIFEST)
        signatures = found.store.read(file)[0] if found.store.head(file) is not None else None
        check_signature(found.data, signatures, key, found.address)
    return found


def find_artifact(store: ObjectStore, name: str, digest: Digest) -> Resolved:
    """Find an artifact by its manifest's digest, in any layout. Raises NotFoundError, ArtifactError."""
    for layout in LAYOUTS:
        if store.head(manifest_key(name, digest, layout)) is not None:
            return read_artifact(store, name, digest, layout)
    raise NotFoundError(
        f"{store.uri}{name} has no artifact {digest}",
        hint=f"list its artifacts with `lmi-compile ls {store.uri}{name}`",
    )


def read_artifact(store: ObjectStore, name: str, digest: Digest, layout: Layout, ref: str | None = None) -> Resolved:
    """Read and verify the manifest of an artifact. Raises NotFoundError, ArtifactError."""
    key = manifest_key(name, digest, layout)
    found = ""
    for _ in range(_TRIES):  # the bytes may be damaged in transit, not in the store
        data, _ = store.read(key)
        found = digest_bytes(data)
        if found == digest:
            return Resolved(store, name, digest, layout, data, ref)
    raise ArtifactError(
        f"the manifest {store.uri}{key} is damaged: expected {digest}, found {found}",
        hint="push the artifact again from where it was built, with `--repair`",
    )


def _no_ref(store: ObjectStore, address: Address, tag: str) -> NotFoundError:
    found = tags(store, address.name or "")
    if not found:
        return NotFoundError(
            f"{store.uri} has no tags of `{address.name}`",
            hint=f"list its artifacts with `lmi-compile ls {store.uri}`, or publish one with `lmi-compile push`",
        )
    from_one = f"{store.uri}{address.name}@{found[0]}"
    named = ", ".join(f"`@{one}`" for one in found[:10])
    return NotFoundError(
        f"{store.uri}{address.name} has no tag `{tag}`; it has {named}",
        hint=f"pass one of them, or make the tag: `lmi-compile promote {from_one} --to {tag}`",
    )
