"""Integrity of an artifact on disk: its files against the manifest, its tensors against the config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.check import check_files
from compiler.artifact.manifest import load_manifest
from compiler.numerics.verify import check_layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compiler.artifact.check import Evidence
    from compiler.artifact.manifest import Manifest


def intact(folder: Path, *, by: Evidence, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Check an artifact without running it, on any machine, and return its manifest.

    `by`: see check_files; `progress(bytes, total bytes)`. Raises ArtifactError.
    """
    manifest = load_manifest(folder)
    check_files(manifest, folder, by=by, progress=progress)
    check_layout(manifest, folder)
    return manifest
