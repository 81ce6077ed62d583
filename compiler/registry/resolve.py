"""From what a user typed to an artifact that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.manifest import MANIFEST, load_manifest, parse_manifest
from compiler.errors import ArtifactError, NotFoundError, UsageError
from compiler.registry.address import Address, is_digest, parse_address
from compiler.registry.layout import LAYOUTS, Layout, file_key, manifest_key, ref_key
from compiler.registry.record import read_ref
from compiler.storage.files.digest import digest_bytes
from compiler.storage.objects import open_store

if TYPE_CHECKING:
    from compiler.artifact.manifest import File, Manifest
    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import ObjectStore

_TRIES = 3


@dataclass(frozen=True)
class Resolved:
    """One artifact in a store, immutable. `data`: the manifest's bytes, which have `digest`. `ref`: the tag that led
    here, None where the digest was given.
    """

    store: ObjectStore
    name: str
    digest: Digest
    layout: Layout
    data: bytes
    ref: str | None = None

    @cached_property
    def manifest(self) -> Manifest:
        """Raises ArtifactError where it is not one of this version."""
        return parse_manifest(self.data, self.store.uri + self.manifest_key)

    @property
    def manifest_key(self) -> str:
        return manifest_key(self.name, self.digest, self.layout)

    @property
    def uri(self) -> str:
        """Of the immutable prefix (`plain`), ending with `/`: what SageMaker mounts. Of the manifest (`cas`)."""
        uri = self.store.uri + self.manifest_key
        return uri.removesuffix(MANIFEST) if self.layout == "plain" else uri

    @property
    def address(self) -> str:
        """What names this very artifact on the command line: STORE/NAME@sha256:..."""
        return f"{self.store.uri}{self.name}@{self.digest}"

    def key(self, file: File) -> str:
        """Of one of the manifest's files, in the store."""
        return file_key(self.name, self.digest, self.layout, file.path, file.digest)


def manifest_of(text: str) -> Manifest:
    """Of the artifact in the folder `text`, else of the one in a store that `text` means. Raises as `resolve`."""
    if (Path(text) / MANIFEST).is_file():
        return load_manifest(Path(text))
    return resolve(text).manifest


def resolve(uri: str) -> Resolved:
    """The artifact that `uri` means now; `current` where it has no ref (address.py).

    Raises UsageError, NotFoundError (with the refs that there are), StoreError, ArtifactError (the manifest in the
    store is damaged).
    """
    address = parse_address(uri)
    if address.name is None:
        raise UsageError(f"`{uri}` is a store", hint=f"expected an artifact in it: `{address.root}NAME@TAG`")
    store = open_store(address.root)
    tag = address.ref or "current"
    if is_digest(tag):
        return find_artifact(store, address.name, tag)
    ref = read_ref(store, address.name, tag)
    if ref is None:
        raise _no_ref(store, address, tag)
    return read_artifact(store, address.name, ref.now.digest, ref.now.layout, tag)


def find_artifact(store: ObjectStore, name: str, digest: Digest) -> Resolved:
    """An artifact by its manifest's digest, in whichever layout it is. Raises NotFoundError, ArtifactError."""
    for layout in LAYOUTS:
        if store.head(manifest_key(name, digest, layout)) is not None:
            return read_artifact(store, name, digest, layout)
    raise NotFoundError(
        f"{store.uri}{name} has no artifact {digest}", hint=f"`lmi-compile ls {store.uri}{name}` lists what there is"
    )


def read_artifact(store: ObjectStore, name: str, digest: Digest, layout: Layout, ref: str | None = None) -> Resolved:
    """Raises NotFoundError, ArtifactError."""
    key = manifest_key(name, digest, layout)
    found = ""
    for _ in range(_TRIES):  # wrong bytes may have been the way's, not the store's
        data, _ = store.read(key)
        found = digest_bytes(data)
        if found == digest:
            return Resolved(store, name, digest, layout, data, ref)
    raise ArtifactError(
        f"the manifest {store.uri}{key} is damaged: it has {found}",
        hint="push the artifact again from where it was built, with `--repair`",
    )


def _no_ref(store: ObjectStore, address: Address, tag: str) -> NotFoundError:
    _, objects = store.children(ref_key(address.name or "", "").removesuffix(".json"))
    tags = [item.key.rpartition("/")[2].removesuffix(".json") for item in objects]
    if not tags:
        return NotFoundError(
            f"{store.uri} has no refs of `{address.name}`",
            hint=f"`lmi-compile ls {store.uri}` lists what there is; `lmi-compile push` puts an artifact there",
        )
    from_one = f"{store.uri}{address.name}@{sorted(tags)[0]}"
    named = ", ".join(f"`@{one}`" for one in sorted(tags)[:10])
    return NotFoundError(
        f"{store.uri}{address.name} has no ref `{tag}`; it has {named}",
        hint=f"name one of them, or make one: `lmi-compile promote {from_one} --to {tag}`",
    )
