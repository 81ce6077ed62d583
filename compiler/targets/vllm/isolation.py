"""Namespaces of a server that bakes or proves: the model at its final path, no network.

The path of the model is in the key, so the files of the build are bound to /opt/ml/model in a mount namespace of the
server's own. Where that is not allowed, the server reads the folder itself, and the cache hits only there; the plan of
the build and the manifest say which path it was.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNSHARE = (
    ("unshare", "--mount", "--net", "--"),
    ("unshare", "--user", "--map-root-user", "--mount", "--net", "--"),
)
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
def isolation(folder: Path, wanted: str) -> Iterator[Isolation]:
    """Isolation with the model of `folder` at the path `wanted`, whose mount point exists meanwhile."""
    with _mount_point(Path(wanted)) as exists:
        prefix = next((prefix for prefix in _UNSHARE if exists and _works((*prefix, "true"))), ())
        in_place = exists and folder.samefile(wanted)  # in a container, which is isolated by whoever started it
        yield Isolation(prefix, wanted if prefix or in_place else str(folder))


@contextmanager
def _mount_point(path: Path) -> Iterator[bool]:
    """Whether the folder `path` exists; folders that were made for it are removed afterwards."""
    made = [each for each in reversed((path, *path.parents)) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield True
    except OSError:
        yield False
    finally:
        for each in reversed(made):
            try:
                each.rmdir()
            except OSError:
                break


def _works(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
