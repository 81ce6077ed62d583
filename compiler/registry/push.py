"""Push: publish the folder of an artifact: files, then the manifest, then a tag. Never overwrites an object."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.artifact.check import check_files
from compiler.artifact.manifest import MANIFEST, parse_manifest
from compiler.artifact.scan import check_publishable
from compiler.errors import ArtifactError, ConflictError, RefusedError, StoreError, UsageError
from compiler.registry.address import check_name, is_digest, parse_address
from compiler.registry.layout import PROBES, Layout, check_paths, file_key, manifest_key
from compiler.registry.lease import Lease
from compiler.registry.progress import Counter
from compiler.registry.record import is_marked
from compiler.registry.refs import CURRENT, LATEST, check_fixed, fix, move
from compiler.registry.resolve import read_artifact
from compiler.report import Report, Silent, amount
from compiler.storage.cache.stages import cache_folder
from compiler.storage.files.digest import digest_bytes, digest_json
from compiler.storage.files.folder import remove_folder
from compiler.storage.objects import open_store
from compiler.storage.objects.conditions import Conditions, probe
from compiler.storage.objects.flow import PART, THREADS, pieces
from compiler.storage.objects.types import NOTHING
from compiler.storage.objects.upload import Outgoing, journal_lock, upload_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import ObjectStore

_LOOKS = 3
"""Rounds of looking for missing files and sending them."""


@dataclass(frozen=True)
class Pushed:
    """Result of a push. `address`: by digest; `ref`: the tag that points to it now. `sent`: bytes transferred."""

    uri: str
    address: str
    name: str
    digest: Digest
    layout: Layout
    ref: str
    files: int
    nbytes: int
    sent: int
    seconds: float
    conditions: Conditions

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """Objects to publish. `tag` None: `latest` moves. `notes`: files beside the manifest (signatures) by key."""

    store: ObjectStore
    name: str
    tag: str | None
    digest: Digest
    layout: Layout
    data: bytes
    files: tuple[Outgoing, ...]
    notes: dict[str, Path]

    @property
    def key(self) -> str:
        return manifest_key(self.name, self.digest, self.layout)

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def push(
    artifact: Path,
    uri: str,
    report: Report | None = None,
    *,
    layout: Layout = "plain",
    repair: bool = False,
    threads: int = THREADS,
    journal: Path | None = None,
) -> Pushed:
    """Publish the artifact in the folder `artifact` as `uri` (address.py); its manifest has the name if `uri` has none.

    With a tag in `uri`, that tag is made, and no push ever moves it; without, `latest` moves. Files that the store has
    already are not sent again; `repair` reads them and replaces damaged ones. A push after an interruption resumes
    (`journal`: folder of its state).

    Raises UsageError, RefusedError (made by a stand-in, or contains a secret), ArtifactError (does not match its
    manifest), ConflictError (the tag points to another artifact), StoreError.
    """
    report, began = report or Silent(), time.monotonic()
    plan = _plan(artifact, uri, layout)
    store = plan.store
    report.begin("push")
    conditions = probe(store, PROBES)
    if conditions.warning:
        report.warn(conditions.warning)
    if plan.tag is not None:
        check_fixed(store, plan.name, plan.tag, plan.digest)
    under_way = (journal or cache_folder() / "uploads") / digest_json([store.uri, plan.name, plan.digest])[7:39]
    keys = [file.key for file in plan.files]
    with (
        journal_lock(under_way, lambda: report.warn("another push of this artifact is running; waiting")),
        Lease(store, [*keys, plan.key, *plan.notes]) as lease,
    ):
        damaged = _damaged(store, plan.files, threads) if repair else frozenset()
        sent = _send(plan, lease, damaged, report, under_way, threads)
        for note, path in plan.notes.items():
            _put_once(store, note, path.read_bytes())
        _put_once(store, plan.key, plan.data)
        resolved = read_artifact(store, plan.name, plan.digest, layout)
        if plan.tag is None:
            moved = move(store, conditions, resolved, LATEST, "push")
        else:
            moved = fix(store, conditions, resolved, plan.tag)
    remove_folder(under_way)
    sizes = f"{amount(plan.nbytes, 'bytes')}, {amount(sent, 'bytes')} of it sent"
    report.end(f"{len(plan.files)} files, {sizes}; {resolved.uri}")
    return Pushed(
        uri=resolved.uri,
        address=resolved.address,
        name=plan.name,
        digest=plan.digest,
        layout=layout,
        ref=moved.tag,
        files=len(plan.files),
        nbytes=plan.nbytes,
        sent=sent,
        seconds=time.monotonic() - began,
        conditions=conditions,
    )


def _plan(artifact: Path, uri: str, layout: Layout) -> _Plan:
    """Check all that can be checked without the store, and plan the push."""
    data = _manifest_bytes(artifact)
    manifest, digest = parse_manifest(data, str(artifact / MANIFEST)), digest_bytes(data)
    if manifest.stand_in:
        raise RefusedError(
            f"`{manifest.name}` was made by a stand-in toolchain and cannot be published",
            hint="build it with the real toolchain (`lmi-compile doctor` finds it)",
        )
    address = parse_address(uri)
    name = address.name or check_name(manifest.name, "the name of an artifact")
    if address.ref is not None and (is_digest(address.ref) or address.ref in (CURRENT, LATEST)):
        raise UsageError(
            f"`{uri}`: a push makes a tag of its own, or moves `{LATEST}`",
            hint=f"push without `@{address.ref}`, then run `lmi-compile promote`",
        )
    check_paths(name, [MANIFEST, *(file.path for file in manifest.files)])
    check_files(manifest, artifact)
    check_publishable(artifact, manifest)
    files = [
        Outgoing(artifact / file.path, file_key(name, digest, layout, file.path, file.digest), file.digest, file.size)
        for file in manifest.files
    ]
    once = tuple({file.key: file for file in files}.values())  # in `cas`, equal files are one object
    notes = _beside(artifact, manifest_key(name, digest, layout))
    return _Plan(open_store(address.root), name, address.ref, digest, layout, data, once, notes)


def _send(plan: _Plan, lease: Lease, damaged: frozenset[str], report: Report, under_way: Path, threads: int) -> int:
    """Send missing files, and look again: some may have been removed since. The number of bytes transferred."""
    sent, new = 0, frozenset[str]()
    look = lease.look if is_marked(plan.store, plan.name, plan.digest) else lease.settled
    found = lease.look([file.key for file in plan.files])
    for _ in range(_LOOKS):
        missing = [f for f in plan.files if f.key not in found or found[f.key].size != f.size or f.key in damaged]
        missing = [file for file in missing if file.key not in new]
        if missing:
            counter = Counter(report, sum(file.size for file in missing))
            sent += upload_files(plan.store, missing, under_way, threads=threads, progress=counter.add)
            damaged = frozenset()
            new |= {file.key for file in missing if file.key not in found}
        if not lease.is_young:
            new = frozenset()
        old = [file for file in plan.files if file.key not in new]
        found = look([file.key for file in old])
        if all(file.key in found and found[file.key].size == file.size for file in old):
            return sent
    raise StoreError(
        f"files of {plan.store.uri}{plan.name} disappear as soon as they are sent",
        hint="check the lifecycle rules of the bucket",
    )


def _manifest_bytes(artifact: Path) -> bytes:
    try:
        return (artifact / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{artifact} is not an artifact: expected a folder with {MANIFEST}",
            hint="pass the folder that `lmi-compile build --output` wrote",
        ) from None


def _beside(artifact: Path, key: str) -> dict[str, Path]:
    """Files beside the manifest, `manifest.json.<suffix>`, such as a signature, by their keys in the store."""
    found = sorted(path for path in artifact.glob(f"{MANIFEST}.*") if path.is_file())
    return {key + path.name.removeprefix(MANIFEST): path for path in found}


def _put_once(store: ObjectStore, key: str, data: bytes) -> None:
    """Write an object that never changes. Raises ConflictError if another one has this key."""
    if store.head(key) is None:
        try:
            store.put(key, data, NOTHING)
        except ConflictError:
            pass  # another process was faster, perhaps with the same bytes
        else:
            return
    there, _ = store.read(key)
    if there != data:
        raise ConflictError(
            f"{store.uri}{key} has other content already, and objects are never overwritten",
            hint="find out who wrote it (`lmi-compile history`); push to another store",
        )


def _damaged(store: ObjectStore, files: Sequence[Outgoing], threads: int) -> frozenset[str]:
    """Keys of damaged objects: those with other bytes than the files."""

    def digest(file: Outgoing) -> Digest:
        sha, buffer = hashlib.sha256(), memoryview(bytearray(min(PART, max(file.size, 1))))
        for start, length in pieces(file.size, PART):
            if length:
                store.read_into(file.key, start, buffer[:length])
            sha.update(buffer[:length])
        return "sha256:" + sha.hexdigest()

    def damaged(file: Outgoing) -> bool:
        there = store.head(file.key)
        return there is not None and (there.size != file.size or digest(file) != file.digest)

    with ThreadPoolExecutor(threads, "verify") as pool:
        return frozenset(file.key for file, bad in zip(files, pool.map(damaged, files), strict=True) if bad)
