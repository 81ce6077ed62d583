"""NAME/refs/<tag>.json: a tag and its log, in one object, so that the two cannot disagree.

{"digest": sha256 of "ref"'s canonical JSON,
 "ref": {"tag": "current", "log": [{"digest", "layout", "when", "who", "why"}, ...]}}     the tag points to the last one
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError, NotFoundError
from compiler.registry.layout import LAYOUTS, Layout, ref_key
from compiler.storage.files.digest import canonical_json, digest_json

if TYPE_CHECKING:
    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import ObjectStore

LOG_LENGTH = 1000
"""Entries kept in a log: about 200 kB."""
_TRIES = 3


@dataclass(frozen=True)
class HistoryEntry:
    """A move of a tag. `when`: UTC, `2026-11-25T19:32:15Z`. `why`: `push`, `promote` or `rollback`."""

    digest: Digest
    layout: Layout
    when: str
    who: str
    why: str


@dataclass(frozen=True)
class Ref:
    """A tag. `log`: its moves, the oldest first, never empty. `etag`: of the object that was read."""

    tag: str
    log: tuple[HistoryEntry, ...]
    etag: str

    @property
    def now(self) -> HistoryEntry:
        """The artifact that the tag points to."""
        return self.log[-1]

    @property
    def past(self) -> tuple[HistoryEntry, ...]:
        """Artifacts that rollbacks lead back to, the current one last; a rollback removes the one it leaves."""
        stack: list[HistoryEntry] = []
        for entry in self.log:
            if entry.why == "rollback":
                while len(stack) > 1 and stack[-1].digest != entry.digest:
                    stack.pop()
            elif not stack or stack[-1].digest != entry.digest:
                stack.append(entry)
        return tuple(stack)


def read_ref(store: ObjectStore, name: str, tag: str) -> Ref | None:
    """Read a tag; None if it does not exist. Raises ArtifactError (damaged), StoreError."""
    key, problem = ref_key(name, tag), ""
    for _ in range(_TRIES):  # the bytes may be damaged in transit, not in the store
        try:
            data, etag = store.read(key)
        except NotFoundError:
            return None
        try:
            found = json.loads(data)
            if found["digest"] != digest_json(found["ref"]):
                problem = "its content does not have the digest in it"
                continue
            log = tuple(HistoryEntry(**entry) for entry in found["ref"]["log"])
            if log and found["ref"]["tag"] == tag and all(entry.layout in LAYOUTS for entry in log):
                return Ref(tag, log, etag)
            problem = "it has another tag or layout, or no entries"
        except (ValueError, KeyError, TypeError) as error:
            problem = repr(error)
    raise ArtifactError(
        f"the tag {store.uri}{key} is damaged: {problem}",
        hint=f"remove it and promote an artifact again; `lmi-compile ls {store.uri}{name}` lists them",
    )


def ref_bytes(tag: str, log: tuple[HistoryEntry, ...]) -> bytes:
    """Encode the object of a tag."""
    ref = {"tag": tag, "log": [asdict(entry) for entry in log[-LOG_LENGTH:]]}
    return canonical_json({"ref": ref, "digest": digest_json(ref)}) + b"\n"


def tags(store: ObjectStore, name: str) -> list[str]:
    """Tags of a name, sorted."""
    _, objects = store.children(f"{name}/refs/")
    return sorted(item.key.rpartition("/")[2].removesuffix(".json") for item in objects)


def is_marked(store: ObjectStore, name: str, digest: Digest) -> bool:
    """Whether some tag points to this artifact or would after one rollback: `gc` keeps it then."""
    refs = (read_ref(store, name, tag) for tag in tags(store, name))
    return any(entry.digest == digest for ref in refs if ref is not None for entry in ref.past[-2:])
