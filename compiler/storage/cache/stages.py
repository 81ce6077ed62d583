"""The stage cache: what a stage made, kept under a key of everything that decided it.

    CACHE/stages/<stage>/<key>/     result.json and the files of one finished run, all read-only
    CACHE/work/<stage>-<key>/       a run that is being made; whoever holds the lock on this folder makes it
    CACHE/partial/<stage>-<key>/    what a stage that can go on after a kill has done so far
    CACHE/digests.jsonl             memo of file digests (storage/files/digest.py)

The key is the sha256 of the canonical JSON of a dataclass of inputs: what is not a field cannot matter. A run
is made in `work`, under a lock, written through to disk and renamed: an entry is whole or not there. Behind it may
stand one that a team shares (remote.py).
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
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
    """What one run of a stage made: `files` (paths relative to `folder`) and `facts` (JSON). Read only."""

    folder: Path
    files: tuple[Descriptor, ...]
    facts: dict[str, Any]
    fresh: bool
    """Made just now, not found."""


@dataclass(frozen=True)
class CacheLine:
    """One line of `cache ls`: sizes in bytes; `used`: when it was last found, in seconds since the epoch."""

    stage: str
    key: str
    files: int
    nbytes: int
    used: float


class Claim:
    """The right to make one entry. `entry` set: nothing is left to make. Else fill `folder`, and commit."""

    def __init__(self, cache: StageCache, stage: str, key: str, inputs: dict[str, Any]) -> None:
        self.entry: CacheEntry | None = None
        self.folder = cache.work / f"{stage}-{key}"
        self._cache, self._stage, self._key, self._inputs = cache, stage, key, inputs

    def commit(self, facts: Mapping[str, Any] | None = None, files: Sequence[Descriptor] = ()) -> CacheEntry:
        """Make what lies in `folder` the entry. `files`: descriptors that are known; other files are read.

        Raises OSError.
        """
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
    """All stages' results below `root`. `warn` is told of entries that are damaged and will be made again.

    With a `remote`, what is not here is looked for there before it is made, and what was made is put there too.
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
        """Where a stage that can go on after a kill may leave what it has done; the claim on `inputs` guards it. It is
        outside of the claim's own folder, which is emptied whenever it is claimed.
        """
        return self.partial / f"{stage}-{key_of(stage, inputs)}"

    def digest(self, path: Path) -> Digest:
        """Digest of any file, from the memo where it knows this very file and `rehash` was not asked for."""
        return self.memo.sha256(path, rehash=self._rehash)

    def find(self, stage: str, inputs: DataclassInstance) -> CacheEntry | None:
        """The entry for `inputs` where there is a whole one; a damaged one is reported."""
        return self._read(stage, key_of(stage, inputs), asdict(inputs))

    @contextmanager
    def claim(self, stage: str, inputs: DataclassInstance) -> Iterator[Claim]:
        """The entry for `inputs`, or the right to make it. Waits while another process makes the same one.

        Claim several in the order of their keys: two processes then never wait for each other. Leaving the
        context without a commit leaves nothing behind.
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

    def keep(self, stage: str, key: str, folder: Path, text: bytes, files: Sequence[Descriptor]) -> Path:
        """Make `folder`, which has `files`, the entry's own, with `text` as its result.json. Raises OSError."""
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
        """An empty folder on the cache's disk, which is gone afterwards."""
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
        """Every entry, the most recently used first."""
        lines = []
        for result in self.root.glob(f"stages/*/*/{_RESULT}"):
            folder = result.parent
            if folder.suffix == ".gone":
                continue
            sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
            lines.append(CacheLine(folder.parent.name, folder.name, len(sizes) - 1, sum(sizes), result.stat().st_mtime))
        return sorted(lines, key=lambda line: -line.used)

    def clear(self) -> int:
        """Remove every entry; the bytes in them. Artifacts that share files with the cache keep theirs."""
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
        with suppress(OSError):  # a cache of another user's: it is found, its time of use stays
            os.utime(folder / _RESULT)
        return entry

    def _fetch(self, stage: str, key: str, folder: Path, inputs: dict[str, Any]) -> CacheEntry | None:
        """The entry out of the remote cache, checked like one that was found here; `folder` is left empty else."""
        text = self.remote.fetch(stage, key, folder) if self.remote is not None else None
        problem, entry = self._check(folder, text, inputs) if text is not None else (None, None)
        if problem is not None:
            self._warn(f"the shared cache's entry of {stage} is not used: {problem}")
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
                return f"{_RESULT} is of other inputs", None
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
        """Take an entry away in one step, so that no one finds half of it."""
        gone = folder.with_name(f"{folder.name}.{os.getpid()}.gone")
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
        remove_folder(gone)


def key_of(stage: str, inputs: DataclassInstance) -> str:
    """64 hexadecimal digits that stand for a stage and everything that decides its result."""
    return digest_bytes(canonical_json({"stage": stage, "inputs": asdict(inputs)})).removeprefix("sha256:")


def cache_folder() -> Path:
    """$LMI_COMPILE_CACHE, else lmi-compile in $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("LMI_COMPILE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmi-compile"


def open_cache(root: Path, remote: str | None, *, warn: Callable[[str], None], rehash: bool = False) -> StageCache:
    """The cache in the folder `root`; `remote`: URI of a store with a cache that others share. Raises UsageError."""
    if remote is None:
        return StageCache(root, warn=warn, rehash=rehash)
    from compiler.storage.cache.remote import RemoteCache
    from compiler.storage.objects import open_store

    shared = RemoteCache(open_store(remote), root / "uploads", warn=warn)
    return StageCache(root, warn=warn, rehash=rehash, remote=shared)
