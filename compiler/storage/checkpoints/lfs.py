"""Pointers of git-lfs: the text files that a clone without git-lfs has in the place of large files.

    version https://git-lfs.github.com/spec/v1
    oid sha256:HEX
    size BYTES

Source: the specification in the repository of git-lfs (github.com/git-lfs/git-lfs, docs/spec.md): `version` is the
first line, and a pointer is shorter than 1024 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

START = b"version https://"
LIMIT = 1024
POINTER_HINT = "run `git lfs pull` in the clone, or download the files from the hub"


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins with `head` is a pointer: its first 8 bytes are enough."""
    return len(head) >= 8 and head.startswith(START[: len(head)])


def is_pointer_file(path: Path) -> bool:
    """Whether `path` is a file and a pointer."""
    if not path.is_file() or path.stat().st_size > LIMIT:
        return False
    with path.open("rb") as file:
        return is_pointer(file.read(len(START)))


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Raise CheckpointError, with one line for all of `paths` that are pointers."""
    found = [path for path in paths if is_pointer_file(path)]
    if found:
        names = sorted(path.name for path in found)
        more = ", ..." if len(names) > 5 else ""
        raise CheckpointError(
            f"{len(names)} file(s) in {found[0].parent} are git-lfs pointers, not the files themselves: "
            f"{', '.join(names[:5])}{more}",
            hint=POINTER_HINT,
        )
