"""Tags: promote, rollback, history. A tag's log, never an artifact, records who moved it and when."""

from __future__ import annotations

import datetime
import getpass
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import ConflictError, NotFoundError, RefusedError, UsageError
from compiler.registry.address import check_name, is_digest, parse_address
from compiler.registry.layout import PROBES, ref_key
from compiler.registry.lease import Lease
from compiler.registry.record import HistoryEntry, Ref, is_marked, read_ref, ref_bytes, tags
from compiler.registry.resolve import Resolved, read_artifact, resolve
from compiler.report import Report, Silent
from compiler.storage.objects import open_store
from compiler.storage.objects.conditions import probe, put_if
from compiler.storage.objects.types import NOTHING

if TYPE_CHECKING:
    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.conditions import Conditions
    from compiler.storage.objects.types import ObjectStore

CURRENT = "current"
LATEST = "latest"
"""The tag that `push` moves if it is given none."""

_TRIES = 50
"""Attempts to move a tag that others move at the same time."""


@dataclass(frozen=True)
class Moved:
    """Move of a tag: digest `before` (None: a new tag) and `after`; equal if there was nothing to do."""

    name: str
    tag: str
    before: Digest | None
    after: Digest
    uri: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "tag": self.tag, "before": self.before, "after": self.after, "uri": self.uri}


def promote(uri: str, to: str = CURRENT, report: Report | None = None) -> Moved:
    """Point the tag `to` to the artifact that `uri` (NAME@TAG or NAME@sha256:...) points to.

    Raises UsageError, NotFoundError, ConflictError, StoreError, ArtifactError.
    """
    report = report or Silent()
    address = parse_address(uri)
    if address.ref is None or address.ref == to:
        raise UsageError(
            f"expected an artifact to promote to `{to}`, found `{uri}`",
            hint=f"pass NAME@TAG or NAME@sha256:..., not @{to}",
        )
    return _point(resolve(uri), check_name(to, "a tag"), "promote", report)


def rollback(uri: str, report: Report | None = None) -> Moved:
    """Move a tag (`current` if `uri` has none) back to its previous artifact; again: to the one before that.

    Raises UsageError, NotFoundError, RefusedError (nothing to go back to), ConflictError, StoreError, ArtifactError.
    """
    report = report or Silent()
    address = parse_address(uri)
    tag = address.ref or CURRENT
    if address.name is None or is_digest(tag):
        raise UsageError(f"`{uri}` names no tag", hint="pass STORE/NAME, or STORE/NAME@TAG")
    store = open_store(address.root)
    ref = read_ref(store, address.name, tag)
    if ref is None:
        raise NotFoundError(
            f"{store.uri}{address.name} has no tag `{tag}`",
            hint="promote an artifact to it first: `lmi-compile promote`",
        )
    if len(ref.past) < 2:
        raise RefusedError(
            f"`{tag}` of `{address.name}` has no previous artifact: it always pointed to {ref.now.digest}",
            hint=f"see its log with `lmi-compile history {address}`; move it to any artifact with `promote`",
        )
    target = ref.past[-2]
    found = read_artifact(store, address.name, target.digest, target.layout, tag)
    return _point(found, tag, "rollback", report, expected=ref)


def history(uri: str) -> list[tuple[str, HistoryEntry]]:
    """Moves of one tag or of all tags of a name, the newest first. Raises NotFoundError, StoreError."""
    address = parse_address(uri)
    if address.name is None or (address.ref and is_digest(address.ref)):
        raise UsageError(f"`{uri}` names no tag", hint="pass STORE/NAME, or STORE/NAME@TAG")
    store = open_store(address.root)
    wanted = [address.ref] if address.ref else tags(store, address.name)
    refs = [ref for tag in wanted if (ref := read_ref(store, address.name, tag)) is not None]
    if not refs:
        raise NotFoundError(f"there is no tag {address}", hint=f"list the tags with `lmi-compile ls {address.root}`")
    lines = [(ref.tag, entry) for ref in refs for entry in reversed(ref.log)]
    return sorted(lines, key=lambda line: line[1].when, reverse=True)


def move(
    store: ObjectStore, conditions: Conditions, found: Resolved, tag: str, why: str, expected: Ref | None = None
) -> Moved:
    """Append to the log of `tag`, or create it. `expected`: fail if another process has moved the tag since.

    Raises ConflictError, StoreError, ArtifactError.
    """
    for _ in range(_TRIES):
        ref = read_ref(store, found.name, tag)
        if expected is not None and (ref is None or ref.log != expected.log):
            raise ConflictError(
                f"`{tag}` of `{found.name}` was moved by another process",
                hint="see its log with `lmi-compile history`, then run the command again",
            )
        before = ref.now.digest if ref else None
        moved = Moved(found.name, tag, before, found.digest, found.uri)
        if before == found.digest:
            return moved
        entry = HistoryEntry(found.digest, found.layout, _now(), who(), why)
        data = ref_bytes(tag, (*(ref.log if ref else ()), entry))
        try:
            put_if(store, conditions, ref_key(found.name, tag), data, ref.etag if ref else NOTHING)
        except ConflictError:
            continue  # another process was faster, or the answer to our own write was lost: read it again
        return moved
    raise ConflictError(
        f"`{tag}` of `{found.name}` was moved by others {_TRIES} times", hint="run the same command again later"
    )


def fix(store: ObjectStore, conditions: Conditions, found: Resolved, tag: str) -> Moved:
    """Make a tag that no push moves: a new one, or one that points to this artifact already. Raises ConflictError."""
    check_fixed(store, found.name, tag, found.digest)
    return move(store, conditions, found, tag, "push")


def check_fixed(store: ObjectStore, name: str, tag: str, digest: Digest) -> None:
    """Check that a tag is new or points to the artifact `digest`. Raises ConflictError."""
    ref = read_ref(store, name, tag)
    if ref is not None and ref.now.digest != digest:
        raise ConflictError(
            f"`{name}@{tag}` points to {ref.now.digest} already; this artifact is {digest}",
            hint=f"choose another tag; or push without one and run `lmi-compile promote {name}@latest --to {tag}`",
        )


def who() -> str:
    """Name for logs: $LMI_COMPILE_USER, else the CI's actor, else the login name."""
    for variable in ("LMI_COMPILE_USER", "GITHUB_ACTOR", "CODEBUILD_INITIATOR"):
        if os.environ.get(variable):
            return os.environ[variable]
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return f"uid {os.getuid()}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _point(found: Resolved, tag: str, why: str, report: Report, expected: Ref | None = None) -> Moved:
    store = found.store
    conditions = probe(store, PROBES)
    if conditions.warning:
        report.warn(conditions.warning)
    keys = [found.manifest_key, *(found.key(file) for file in found.manifest.files)]
    with Lease(store, keys) as lease:
        there = lease.look(keys) if is_marked(store, found.name, found.digest) else lease.settled(keys)
        lost = [key for key in keys if key not in there]
        if lost:
            raise NotFoundError(
                f"{len(lost)} file(s) of {found.address} are not in the store any more, such as {lost[0]}",
                hint="push the artifact again from where it was built",
            )
        return move(store, conditions, found, tag, why, expected)
