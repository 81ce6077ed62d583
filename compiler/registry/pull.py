"""Pull: update a folder to an artifact in a store. Fetches missing and changed files, verified, and swaps atomically.

    .FOLDER.pull/     files that have arrived, under a lock; an interrupted pull resumes here
    FOLDER/           the previous artifact or the new one, always complete

Files of the previous artifact that the new one has too (by digest, at any path) are linked, not fetched.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.errors import ArtifactError, UsageError
from compiler.registry.progress import Counter
from compiler.registry.ranks import files_for
from compiler.registry.resolve import Resolved, resolve
from compiler.report import Report, Silent, amount
from compiler.storage.cache.stages import cache_folder
from compiler.storage.files.digest import DigestMemo
from compiler.storage.files.disk import disk_full, link_read_only
from compiler.storage.files.folder import kept_folder, normal, place, remove_folder
from compiler.storage.objects.download import Incoming, download_files
from compiler.storage.objects.flow import THREADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.artifact.manifest import ArtifactFile
    from compiler.storage.files.digest import Digest


@dataclass(frozen=True)
class Pulled:
    """Result of a pull. `address`: by digest. `fetched`: bytes transferred; `reused`: bytes that were here already."""

    folder: Path
    address: str
    digest: Digest
    files: int
    nbytes: int
    fetched: int
    reused: int
    seconds: float
    up_to_date: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}


def pull(
    source: str | Resolved,
    folder: Path,
    report: Report | None = None,
    *,
    rank: int | None = None,
    threads: int = THREADS,
) -> Pulled:
    """Fetch the artifact that `source` (address.py) points to now into `folder`.

    `rank`: only that rank's files and the shared ones; files of other ranks that are in `folder` stay. A pull after an
    interruption resumes. The second of two concurrent pulls waits for the first.

    Raises UsageError (`folder` holds something else, or there is no such rank), NotFoundError, StoreError,
    ArtifactError (damaged in the store), DiskFullError.
    """
    report, began = report or Silent(), time.monotonic()
    found = resolve(source) if isinstance(source, str) else source
    output = normal(folder)
    _check_folder(output)
    wanted = files_for(found.manifest, rank)
    memo = DigestMemo(cache_folder() / "digests.jsonl")
    report.begin("pull")
    part = output.with_name(f".{output.name}.pull")
    with kept_folder(part, lambda: report.warn(f"another pull into {output} is running; waiting")):
        here = _here(output)
        wanted = tuple(file for file in found.manifest.files if file in wanted or here.get(file.digest))
        nbytes = sum(file.size for file in wanted)
        notes = _notes(found)
        if _is_at(output, found, wanted, notes, memo):
            remove_folder(part)
            report.end(f"{output} is up to date")
            return Pulled(
                output,
                found.address,
                found.digest,
                len(wanted),
                nbytes,
                0,
                nbytes,
                time.monotonic() - began,
                up_to_date=True,
            )
        reused = _reuse(part, wanted, here, memo)
        missing = [file for file in wanted if file.path not in reused]
        _check_space(part, missing)
        counter = Counter(report, sum(file.size for file in missing))
        incoming = [Incoming(found.key(file), part / file.path, file.digest, file.size) for file in missing]
        fetched = download_files(found.store, incoming, threads=threads, progress=counter.add)
        for name, data in {**notes, MANIFEST: found.data}.items():
            (part / name).write_bytes(data)
            (part / name).chmod(0o444)
        for file in wanted:
            _mark_script(part / file.path)
        place(part, output)
        for file in wanted:
            memo.remember(output / file.path, file.digest)
    old = sum(file.size for file in wanted if file.path in reused)
    report.end(f"{len(wanted)} files, {amount(nbytes, 'bytes')}, {amount(fetched, 'bytes')} of it fetched")
    return Pulled(output, found.address, found.digest, len(wanted), nbytes, fetched, old, time.monotonic() - began)


def _check_folder(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError(f"{output} is not a folder", hint="choose another path")
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise UsageError(f"{output} has files in it and is not an artifact", hint="choose another folder")
    if output.is_mount():
        raise UsageError(
            f"{output} is a mount point and cannot be swapped atomically",
            hint=f"choose a folder in it: `{output}/model`",
        )


def _here(output: Path) -> dict[Digest, Path]:
    """Files of the artifact at `output`, by the digests in its manifest."""
    try:
        manifest = load_manifest(output)
    except ArtifactError:
        return {}
    paths = {file.digest: output / file.path for file in manifest.files}
    return {digest: path for digest, path in paths.items() if path.is_file() and not path.is_symlink()}


def _notes(found: Resolved) -> dict[str, bytes]:
    """Files beside the manifest that it does not list, such as its signature, by name."""
    listed = [item.key for item in found.store.walk(found.manifest_key + ".")]
    return {MANIFEST + key.removeprefix(found.manifest_key): found.store.read(key)[0] for key in listed}


def _is_at(
    output: Path, found: Resolved, wanted: Sequence[ArtifactFile], notes: dict[str, bytes], memo: DigestMemo
) -> bool:
    try:
        if any((output / name).read_bytes() != data for name, data in {**notes, MANIFEST: found.data}.items()):
            return False
        return all(_is(output / file.path, file, memo) for file in wanted)
    except OSError:
        return False


def _is(path: Path, file: ArtifactFile, memo: DigestMemo) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != file.size:
        return False
    return memo.sha256(path) == file.digest


def _reuse(part: Path, wanted: Sequence[ArtifactFile], here: dict[Digest, Path], memo: DigestMemo) -> frozenset[str]:
    """Paths of complete files in `part`: kept from an interrupted pull, or linked from `here`.

    Removes everything else but files in flight.
    """
    in_flight = {f"{file.path}{suffix}" for file in wanted for suffix in (".part", ".parts")}
    by_path = {file.path: file for file in wanted}
    whole = set()
    for path in sorted(part.rglob("*"), reverse=True):
        inner = str(path.relative_to(part))
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif inner in by_path and _is(path, by_path[inner], memo):
            whole.add(inner)
        elif inner not in in_flight:
            path.unlink()
    for file in wanted:
        source = here.get(file.digest)
        if file.path not in whole and source is not None and _is(source, file, memo):
            target = part / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if link_read_only(source, target):
                memo.remember(target, file.digest)
                whole.add(file.path)
    return frozenset(whole)


def _check_space(part: Path, missing: Sequence[ArtifactFile]) -> None:
    begun = sum(
        (part / f"{file.path}.part").stat().st_blocks * 512 for file in missing if (part / f"{file.path}.part").exists()
    )
    needed, free = sum(file.size for file in missing), shutil.disk_usage(part).free + begun
    if needed > free:
        raise disk_full(part, needed, free)


def _mark_script(path: Path) -> None:
    """Make a file executable if it begins with `#!`: stores keep no file modes."""
    with path.open("rb") as file:
        if file.read(2) == b"#!":
            path.chmod(0o555)
