"""Assemble an artifact from existing files."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.artifact.manifest import MANIFEST, Manifest
from compiler.errors import UsageError
from compiler.storage.files.disk import disk_full, link_read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compiler.artifact.parts import Part
    from compiler.storage.files.digest import DigestMemo


def check_output(output: Path, *, force: bool) -> None:
    """Check that a build may write to `output` without loss of other files. Raises UsageError."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{output} is a file", hint="pass a folder that does not exist yet as `--output`")
    if not any(output.iterdir()):
        return
    if not (output / MANIFEST).is_file():
        raise UsageError(
            f"{output} has files in it and is not an artifact", hint="choose another folder with `--output`"
        )
    if not force:
        raise UsageError(
            f"{output} holds another artifact",
            hint="pass `--force` to replace it, or choose another `--output`",
        )


def assemble(folder: Path, parts: Sequence[Part], memo: DigestMemo, progress: Callable[[int, int], None]) -> None:
    """Link (on one file system) or copy every part into `folder`. Raises DiskFullError, OSError.

    Adds the digest of each linked file to `memo`: it is the file that was checked.
    """
    total, done = sum(part.descriptor.size for part in parts), 0
    for part in parts:
        target = folder / part.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(part.content, bytes):
            target.write_bytes(part.content)
            target.chmod(0o555 if part.executable else 0o444)
        elif link_read_only(part.content, target):
            memo.remember(target, part.descriptor.digest)
        else:
            _copy(part.content, target, total - done)
        done += part.descriptor.size
        progress(done, total)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write or replace manifest.json. Raises OSError."""
    part = folder / f"{MANIFEST}.part"
    part.write_bytes(manifest.to_bytes())
    part.chmod(0o444)
    part.replace(folder / MANIFEST)


def _copy(source: Path, target: Path, needed: int) -> None:
    """Copy in the kernel, which shares blocks if the file system can. `needed`: bytes still to be written."""
    with source.open("rb") as read, target.open("xb") as write:
        left = os.fstat(read.fileno()).st_size
        try:
            while left > 0:
                count = _copy_some(read.fileno(), write.fileno(), min(left, 1 << 30))
                if count == 0:
                    break
                left -= count
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(target, needed, shutil.disk_usage(target.parent).free) from error
            raise
    target.chmod(0o444)


def _copy_some(read: int, write: int, count: int) -> int:
    try:
        return os.copy_file_range(read, write, count)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.sendfile(write, read, None, count)
