"""Stage cache: results of build steps by cache key.

    CACHE/stages/<stage>/<key>/     result.json and the files of one finished run, all read-only
    CACHE/work/<stage>-<key>/       a run in progress, by the process that holds the lock on this folder
    CACHE/partial/<stage>-<key>/    progress of a stage that resumes after a kill
    CACHE/digests.jsonl             memo of file digests (storage/files/digest.py)

The cache key is the sha256 of the canonical JSON of a dataclass with all inputs of the stage. A run writes to `work`
under a lock, is synced to disk and renamed, so an entry is complete or absent. A cache that a team shares can be behind
this one (remote.py).
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.storage.files.digest import (
    OCTETS,
    Descriptor,
    Digest,
    DigestMemo,
    canonical_json,
    describe,
    digest_bytes,
    digest_json,
)
from compiler.storage.files.disk import sync_folder
from compiler.storage.files.folder import empty_folder, locked_folder, remove_folder, try_locked_folder, write_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance

    from compiler.storage.cache.remote import RemoteCache

_RESULT = "result.json"


@dataclass(frozen=True)
class CacheEntry:
    """Result of one run of a stage: `files` (paths relative to `folder`) and `facts` (JSON). Read-only."""

    folder: Path
    files: tuple[Descriptor, ...]
    facts: dict[str, Any]
    fresh: bool
    """Made by this process rather than found."""


@dataclass(frozen=True)
class CacheLine:
    """One line of `cache ls`. `used`: time of the last hit, in seconds since the epoch."""

    stage: str
    key: str
    files: int
    nbytes: int
    used: float


class Claim:
    """Exclusive right to make one entry. `entry` is None until it exists: then fill `folder`, and commit."""

    def __init__(self, cache: StageCache, stage: str, key: str, inputs: dict[str, Any]) -> None:
        self.entry: CacheEntry | None = None
        self.folder = cache.work / f"{stage}-{key}"
        self._cache, self._stage, self._key, self._inputs = cache, stage, key, inputs

    def commit(self, facts: Mapping[str, Any] | None = None, files: Sequence[Descriptor] = ()) -> CacheEntry:
        """Turn `folder` into the entry. `files`: known descriptors; other files are hashed. Raises OSError."""
        known = {descriptor.path: descriptor for descriptor in files}
        paths = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
        found = tuple(known.get(path) or describe(self.folder, path, OCTETS) for path in paths)
        result = {
            "inputs": self._inputs,
            "files": [asdict(descriptor) for descriptor in found],
            "facts": dict(facts or {}),
        }
        text = canonical_json({"result": result, "digest": digest_json(result)})
        final = self._cache.keep(self._stage, self._key, self.folder, text, found)
        self.entry = CacheEntry(final, found, json.loads(text)["result"]["facts"], fresh=True)
        if self._cache.remote is not None:
            self._cache.remote.publish(self._stage, self._key, final, text)
        return self.entry


class StageCache:
    """Results of all stages below `root`. `warn` receives a line for each damaged entry, which is made again.

    A miss is looked up in `remote`, and new entries are published there.
    """

    def __init__(
        self, root: Path, *, warn: Callable[[str], None], rehash: bool = False, remote: RemoteCache | None = None
    ) -> None:
        self.root, self.work, self.partial = root, root / "work", root / "partial"
        self.remote = remote
        self.memo = DigestMemo(root / "digests.jsonl")
        self._warn, self._rehash = warn, rehash

    def folder_of(self, stage: str, key: str) -> Path:
        return self.root / "stages" / stage / key

    def partial_folder(self, stage: str, inputs: DataclassInstance) -> Path:
        """Folder for the progress of a stage that resumes after a kill, guarded by the claim on `inputs`: the claim's
        own folder is emptied at every claim.
        """
        return self.partial / f"{stage}-{key_of(stage, inputs)}"

    def digest(self, path: Path) -> Digest:
        """Digest of a file, from the memo if that has this file and `rehash` is off."""
        return self.memo.sha256(path, rehash=self._rehash)

    def find(self, stage: str, inputs: DataclassInstance) -> CacheEntry | None:
        """Entry for `inputs`; None for a miss or a damaged entry, which is reported."""
        return self._read(stage, key_of(stage, inputs), asdict(inputs))

    @contextmanager
    def claim(self, stage: str, inputs: DataclassInstance) -> Iterator[Claim]:
        """The entry for `inputs`, or the right to make it. Waits while another process makes the same entry.

        Leaving the context without a commit discards the work.
        """
        key = key_of(stage, inputs)
        claim = Claim(self, stage, key, asdict(inputs))
        claim.entry = self._read(stage, key, asdict(inputs))
        if claim.entry is not None:
            yield claim
            return
        with locked_folder(claim.folder, lambda: self._warn(f"another process is making the same; waiting ({stage})")):
            claim.entry = self._read(stage, key, asdict(inputs), quiet=True)
            if claim.entry is None:
                self._discard(self.folder_of(stage, key))
                claim.entry = self._fetch(stage, key, claim.folder, asdict(inputs))
            yield claim

    @contextmanager
    def claims(self, stage: str, inputs: Mapping[str, DataclassInstance]) -> Iterator[dict[str, Claim]]:
        """Claims by name, taken in the order of their keys: so no two processes wait for each other."""
        ordered = sorted(inputs.items(), key=lambda named: key_of(stage, named[1]))
        with ExitStack() as stack:
            yield {name: stack.enter_context(self.claim(stage, one)) for name, one in ordered}

    def keep(self, stage: str, key: str, folder: Path, text: bytes, files: Sequence[Descriptor]) -> Path:
        """Turn `folder`, which has `files`, into an entry with `text` as its result.json. Raises OSError."""
        (folder / _RESULT).write_bytes(text)
        for path in [*(file.path for file in files), _RESULT]:
            (folder / path).chmod(0o444)
        write_through(folder)
        final = self.folder_of(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)
        sync_folder(final.parent)
        for file in files:
            self.memo.remember(final / file.path, file.digest)
        return final

    @contextmanager
    def scratch(self, stage: str) -> Iterator[Path]:
        """An empty temporary folder on the cache's disk."""
        folder = self.work / f"{stage}-scratch-{os.getpid()}"
        with locked_folder(folder):
            yield folder

    def sweep(self) -> None:
        """Remove what killed processes left behind."""
        for folder in [*self.work.glob("*"), *self.root.glob("stages/*/*.gone")]:
            with try_locked_folder(folder) as ours:
                if ours:
                    remove_folder(folder)

    def stored(self) -> list[CacheLine]:
        """All entries, the most recently used first."""
        lines = []
        for result in self.root.glob(f"stages/*/*/{_RESULT}"):
            folder = result.parent
            if folder.suffix == ".gone":
                continue
            sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
            lines.append(CacheLine(folder.parent.name, folder.name, len(sizes) - 1, sum(sizes), result.stat().st_mtime))
        return sorted(lines, key=lambda line: -line.used)

    def clear(self) -> int:
        """Remove all entries and return their bytes. Artifacts that share files with the cache keep them."""
        total = sum(line.nbytes for line in self.stored())
        for folder in sorted(self.root.glob("stages/*/*")):
            self._discard(folder)
        remove_folder(self.partial)
        self.sweep()
        return total

    def _read(self, stage: str, key: str, inputs: dict[str, Any], *, quiet: bool = False) -> CacheEntry | None:
        folder = self.folder_of(stage, key)
        try:
            text = (folder / _RESULT).read_bytes()
        except FileNotFoundError:
            if folder.exists() and not quiet:
                self._warn(f"the cache entry {folder} has no {_RESULT}; it is made again")
            return None
        problem, entry = self._check(folder, text, inputs)
        if problem is not None:
            if not quiet:
                self._warn(f"the cache entry {folder} is damaged ({problem}); it is made again")
            return None
        with suppress(OSError):  # another user's cache: its times of use cannot be changed
            os.utime(folder / _RESULT)
        return entry

    def _fetch(self, stage: str, key: str, folder: Path, inputs: dict[str, Any]) -> CacheEntry | None:
        """Entry from the remote cache, checked like a local one; on a miss None, and `folder` is empty."""
        text = self.remote.fetch(stage, key, folder) if self.remote is not None else None
        problem, entry = self._check(folder, text, inputs) if text is not None else (None, None)
        if problem is not None:
            self._warn(f"the shared cache's entry for {stage} is not used: {problem}")
        if text is None or entry is None:
            empty_folder(folder)
            return None
        final = self.keep(stage, key, folder, text, entry.files)
        return replace(entry, folder=final)

    def _check(self, folder: Path, text: bytes, inputs: dict[str, Any]) -> tuple[str | None, CacheEntry | None]:
        try:
            parsed = json.loads(text)
            result = parsed["result"]
            if parsed["digest"] != digest_json(result):
                return f"{_RESULT} does not have the digest that it states", None
            if result["inputs"] != json.loads(canonical_json(inputs)):
                return f"{_RESULT} is for other inputs", None
            files = tuple(Descriptor(**fields) for fields in result["files"])
            for file in files:
                path = folder / file.path
                size = path.stat().st_size
                if size != file.size:
                    return f"{file.path}: expected {file.size} bytes, found {size}", None
                digest = self.digest(path)
                if digest != file.digest:
                    return f"{file.path}: expected {file.digest}, found {digest}", None
            return None, CacheEntry(folder, files, result["facts"], fresh=False)
        except FileNotFoundError as error:
            return f"{error.filename} is missing", None
        except (ValueError, KeyError, TypeError) as error:
            return f"{_RESULT}: {error!r}", None

    def _discard(self, folder: Path) -> None:
        """Rename an entry away before removing it, so that nobody finds a part of it."""
        gone = folder.with_name(f"{folder.name}.{os.getpid()}.gone")
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
        remove_folder(gone)


def key_of(stage: str, inputs: DataclassInstance) -> str:
    """Cache key of a stage and its inputs: 64 hexadecimal digits."""
    return digest_bytes(canonical_json({"stage": stage, "inputs": asdict(inputs)})).removeprefix("sha256:")


def cache_folder() -> Path:
    """Folder of the cache: $LMI_COMPILE_CACHE, else lmi-compile in $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("LMI_COMPILE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmi-compile"


def open_cache(root: Path, remote: str | None, *, warn: Callable[[str], None], rehash: bool = False) -> StageCache:
    """Cache in the folder `root`. `remote`: URI of a store with a shared cache. Raises UsageError."""
    if remote is None:
        return StageCache(root, warn=warn, rehash=rehash)
    from compiler.storage.cache.remote import RemoteCache
    from compiler.storage.objects import open_store

    shared = RemoteCache(open_store(remote), root / "uploads", warn=warn)
    return StageCache(root, warn=warn, rehash=rehash, remote=shared)
