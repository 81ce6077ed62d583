"""Namespaces of a server that bakes or proves: the model at its final path, no network.

The path of the model is in the key, so the files of the build are bound to /opt/ml/model in a mount namespace of the
server's own. Where that is not allowed, links to the files are placed in an empty /opt/ml/model meanwhile, such as the
output folder of a SageMaker training job. Else the server reads the folder itself, and the cache hits only there; the
plan of the build and the manifest say which path it was.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNSHARE = (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount"))
"""Commands that make the namespaces, as root and as a user (unshare(1))."""


@dataclass(frozen=True)
class Isolation:
    """`prefix`: command that makes the namespaces, () where none is allowed. `model`: path of the model inside."""

    prefix: tuple[str, ...]
    model: str

    @property
    def isolated(self) -> bool:
        """Whether there is a mount and a network namespace."""
        return bool(self.prefix)


@contextmanager
def isolation(folder: Path, wanted: str, *, network: bool = False) -> Iterator[Isolation]:
    """Isolation with the model of `folder` at the path `wanted`, whose mount point exists meanwhile.

    `network`: the server keeps that of this machine.
    """
    last = ("--",) if network else ("--net", "--")
    with _mount_point(Path(wanted)) as exists:
        prefix = next(((*each, *last) for each in _UNSHARE if exists and _works((*each, *last, "true"))), ())
        in_place = exists and folder.samefile(wanted)  # in a container, which is isolated by whoever started it
        with _placed(folder, Path(wanted), needed=exists and not prefix and not in_place) as placed:
            yield Isolation(prefix, wanted if prefix or in_place or placed else str(folder))


@contextmanager
def _placed(folder: Path, wanted: Path, *, needed: bool) -> Iterator[bool]:
    """Whether links to the files of `folder` are in the folder `wanted`, which is left empty. It must have been."""
    made: list[Path] = []
    try:
        if needed and not any(wanted.iterdir()):
            with suppress(OSError):  # read-only, or a build beside this one was faster
                for file in sorted(folder.absolute().iterdir()):
                    (wanted / file.name).symlink_to(file)
                    made.append(wanted / file.name)
        yield bool(made) and len(made) == len(list(folder.iterdir()))
    finally:
        for link in made:
            link.unlink(missing_ok=True)


@contextmanager
def _mount_point(path: Path) -> Iterator[bool]:
    """Whether the folder `path` exists. Folders that were made for it are removed by the last user on this machine:
    removing a mount point detaches what others have mounted there.
    """
    lock = Path(tempfile.gettempdir()) / f"lmi-compile-mount-{os.getuid()}.lock"
    with lock.open("a+") as opened:
        fcntl.flock(opened, fcntl.LOCK_SH)
        try:
            yield _make(path, opened)
        finally:
            with suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(opened)


def _make(path: Path, opened: IO[str]) -> bool:
    """Whether the folder `path` exists, made if need be; folders that were made get a line in the lock's file."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    opened.write("".join(f"{each}\n" for each in made))
    opened.flush()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _remove(opened: IO[str]) -> None:
    """Remove the empty folders that the lines of the lock's file name, deepest first; then the lines."""
    opened.seek(0)
    for line in sorted(set(opened.read().splitlines()), key=len, reverse=True):
        with suppress(OSError):
            Path(line).rmdir()
    opened.truncate(0)


def _works(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
