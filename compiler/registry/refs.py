"""Tags that move: promote, rollback, history. Who moved a tag and when is in its log, never in an artifact."""

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
from compiler.registry.record import Entry, Ref, is_marked, read_ref, ref_bytes, tags
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
"""What `push` moves where it is given no tag."""

_TRIES = 50
"""Of a move that others keep overtaking."""


@dataclass(frozen=True)
class Moved:
    """What a tag meant before (None: it is new) and means now; both equal where there was nothing to do."""

    name: str
    tag: str
    before: Digest | None
    after: Digest
    uri: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "tag": self.tag, "before": self.before, "after": self.after, "uri": self.uri}


def promote(uri: str, to: str = CURRENT, report: Report | None = None) -> Moved:
    """Make the tag `to` mean the artifact that `uri` (NAME@tag or NAME@sha256:...) means.

    Raises UsageError, NotFoundError, ConflictError, StoreError, ArtifactError.
    """
    report = report or Silent()
    address = parse_address(uri)
    if address.ref is None or address.ref == to:
        raise UsageError(f"`{uri}`: promote what to `{to}`?", hint=f"expected NAME@TAG or NAME@sha256:..., not @{to}")
    return _point(resolve(uri), check_name(to, "a tag"), "promote", report)


def rollback(uri: str, report: Report | None = None) -> Moved:
    """Make a tag (`current` where `uri` names none) mean what it meant before. Again: what it meant before that.

    Raises UsageError, NotFoundError, RefusedError (nothing to go back to), ConflictError, StoreError, ArtifactError.
    """
    report = report or Silent()
    address = parse_address(uri)
    tag = address.ref or CURRENT
    if address.name is None or is_digest(tag):
        raise UsageError(f"`{uri}` names no tag", hint="expected STORE/NAME, or STORE/NAME@TAG")
    store = open_store(address.root)
    ref = read_ref(store, address.name, tag)
    if ref is None:
        raise NotFoundError(f"{store.uri}{address.name} has no ref `{tag}`", hint="nothing was promoted to it yet")
    if len(ref.past) < 2:
        raise RefusedError(
            f"`{tag}` of `{address.name}` has meant nothing but {ref.now.digest}",
            hint=f"`lmi-compile history {address}` shows its log; `promote` moves it to any artifact",
        )
    target = ref.past[-2]
    found = read_artifact(store, address.name, target.digest, target.layout, tag)
    return _point(found, tag, "rollback", report, expected=ref)


def history(uri: str) -> list[tuple[str, Entry]]:
    """(tag, entry) of one tag or of all tags of a name, the newest first. Raises NotFoundError, StoreError."""
    address = parse_address(uri)
    if address.name is None or (address.ref and is_digest(address.ref)):
        raise UsageError(f"`{uri}` names no tag", hint="expected STORE/NAME, or STORE/NAME@TAG")
    store = open_store(address.root)
    wanted = [address.ref] if address.ref else tags(store, address.name)
    refs = [ref for tag in wanted if (ref := read_ref(store, address.name, tag)) is not None]
    if not refs:
        raise NotFoundError(f"there is no ref {address}", hint=f"`lmi-compile ls {address.root}` lists what there is")
    lines = [(ref.tag, entry) for ref in refs for entry in reversed(ref.log)]
    return sorted(lines, key=lambda line: line[1].when, reverse=True)


def move(
    store: ObjectStore, conditions: Conditions, found: Resolved, tag: str, why: str, expected: Ref | None = None
) -> Moved:
    """Append to the log of `tag`, creating it where needed. `expected`: give up where it is not that any more.

    Raises ConflictError, StoreError, ArtifactError.
    """
    for _ in range(_TRIES):
        ref = read_ref(store, found.name, tag)
        if expected is not None and (ref is None or ref.log != expected.log):
            raise ConflictError(
                f"`{tag}` of `{found.name}` was moved meanwhile", hint="`lmi-compile history` shows by whom"
            )
        before = ref.now.digest if ref else None
        moved = Moved(found.name, tag, before, found.digest, found.uri)
        if before == found.digest:
            return moved
        entry = Entry(found.digest, found.layout, _now(), who(), why)
        data = ref_bytes(tag, (*(ref.log if ref else ()), entry))
        try:
            put_if(store, conditions, ref_key(found.name, tag), data, ref.etag if ref else NOTHING)
        except ConflictError:
            continue  # somebody was faster, or the answer to our own write was lost: look again
        return moved
    raise ConflictError(
        f"`{tag}` of `{found.name}` was moved by others {_TRIES} times", hint="run the same command again later"
    )


def fix(store: ObjectStore, conditions: Conditions, found: Resolved, tag: str) -> Moved:
    """Make a tag that does not move: new, or of this artifact already. Raises ConflictError."""
    check_fixed(store, found.name, tag, found.digest)
    return move(store, conditions, found, tag, "push")


def check_fixed(store: ObjectStore, name: str, tag: str, digest: Digest) -> None:
    """Raises ConflictError where the tag is of another artifact."""
    ref = read_ref(store, name, tag)
    if ref is not None and ref.now.digest != digest:
        raise ConflictError(
            f"`{name}@{tag}` is {ref.now.digest} already; this artifact is {digest}",
            hint=f"choose another tag; or push it without one, and `lmi-compile promote {name}@latest --to {tag}`",
        )


def who() -> str:
    """$LMI_COMPILE_USER, else the CI's actor, else the login name."""
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
