"""Statements in an artifact about itself: bill of materials and provenance."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from compiler.artifact import provenance, sbom
from compiler.artifact.manifest import PROVENANCE, SBOM, ArtifactFile
from compiler.artifact.parts import written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.artifact.manifest import Manifest
    from compiler.artifact.parts import Part


def with_statements(draft: Manifest, parts: Sequence[Part]) -> tuple[Manifest, list[Part]]:
    """Add sbom.cdx.json and provenance.json to a manifest and its parts; the provenance covers the SBOM too.

    Raises UsageError (a malformed SOURCE_DATE_EPOCH or LMI_COMPILE_BUILDER).
    """
    made, own = list(parts), version("lmi-compile")
    for path, media_type, state in (
        (SBOM, sbom.MEDIA_TYPE, sbom.sbom),
        (PROVENANCE, provenance.MEDIA_TYPE, provenance.provenance),
    ):
        part = written(path, state(draft, own, os.environ))
        part = replace(part, descriptor=replace(part.descriptor, media_type=media_type))
        made.append(part)
        files = [*draft.files, ArtifactFile(**asdict(part.descriptor))]
        draft = draft.model_copy(update={"files": tuple(sorted(files, key=lambda file: file.path))})
    return draft, made
