"""Keys of an artifact's objects in a store.

    plain   NAME/<hex>/<path of the file>     as in the artifact's folder, so that it can be mounted or read in place
            NAME/<hex>/manifest.json          last
    cas     blobs/sha256/<hex of the file>    one object for equal files of all artifacts
            NAME/manifests/<hex>.json         last
    both    NAME/refs/<tag>.json              a tag and its log (record.py)
            .leases/<id>.json                 objects that a running push needs (lease.py)
            .matrix/                          claims, results and logs of a fleet's builds (matrix/ledger.py)

`<hex>`: the 64 digits of the sha256 of the manifest's bytes (of the file's for a blob). Objects below it never change.
`manifest.json.<suffix>` beside the manifest, such as its signature, belongs to the artifact too; the manifest does not
list it, and in `cas` its key is NAME/manifests/<hex>.json.<suffix>.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args

from compiler.artifact.manifest import MANIFEST
from compiler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compiler.storage.files.digest import Digest

Layout = Literal["plain", "cas"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

BLOBS = "blobs/sha256/"
LEASES = ".leases/"
PROBES = ".probes/"
FLEET = ".matrix/"


def hexadecimal(digest: Digest) -> str:
    """The 64 hexadecimal digits of a digest."""
    return digest.removeprefix("sha256:")


def manifest_key(name: str, digest: Digest, layout: Layout) -> str:
    """Key of the manifest with `digest`."""
    keys = {
        "plain": f"{name}/{hexadecimal(digest)}/{MANIFEST}",
        "cas": f"{name}/manifests/{hexadecimal(digest)}.json",
    }
    return keys[layout]


def file_key(name: str, digest: Digest, layout: Layout, path: str, file_digest: Digest) -> str:
    """Key of the file `path` of the artifact whose manifest has `digest`."""
    keys = {"plain": f"{name}/{hexadecimal(digest)}/{path}", "cas": BLOBS + hexadecimal(file_digest)}
    return keys[layout]


def ref_key(name: str, tag: str) -> str:
    """Key of a tag."""
    return f"{name}/refs/{tag}.json"


def check_paths(name: str, paths: Iterable[str]) -> None:
    """Check paths against the rules of S3 and of SageMaker's mounts. Raises UsageError with all problems.

    Parts of a path have 1 to 255 bytes and are not `.` or `..`; no NUL; no file is also a folder; a key has at
    most 1024 bytes (700 are accepted: the bucket's prefix comes on top of them).
    """
    problems: list[str] = []
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
            problems.append(f"{path!r}: empty, `.`, `..`, a NUL, or a part of more than 255 bytes")
        if len(path.encode()) > 700 - len(name) - 66:
            problems.append(f"{path!r}: too long for a key")
        files.add(path)
        folders.update(str(parent) for parent in PurePosixPath(path).parents)
    problems += [f"{path!r}: a file and a folder" for path in sorted(files & folders)]
    if problems:
        raise UsageError(
            "\n".join([f"{len(problems)} file name(s) that cannot be published:", *(f"  {p}" for p in problems)]),
            hint="rename these files and build the artifact again",
        )
