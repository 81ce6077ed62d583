"""Are the files of an artifact those that its manifest names, and the tensors those that its config asks for?"""

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
    """The manifest of a whole artifact. Nothing of it is run, and this machine need not be one that could.

    `by`: see check_files; `progress(bytes, bytes in all)`. Raises ArtifactError.
    """
    manifest = load_manifest(folder)
    check_files(manifest, folder, by=by, progress=progress)
    check_layout(manifest, folder)
    return manifest
