"""Files of an artifact that one rank needs: its own and the shared ones.

A file belongs to rank N if its path contains `rankN`, `rank-N` or `rank_N`, not next to a letter or digit, such as
weights/rank0.safetensors, engines/rank3.engine, model-rank-1-part-0.safetensors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.artifact.manifest import ArtifactFile, Manifest

_RANK = re.compile(r"(?<![A-Za-z0-9])rank[-_]?(\d+)(?![A-Za-z0-9])")


def rank_of(path: str) -> int | None:
    """Rank that a file belongs to, by its path; None: shared."""
    found = _RANK.search(path)
    return int(found[1]) if found else None


def files_for(manifest: Manifest, rank: int | None) -> tuple[ArtifactFile, ...]:
    """Files that `rank` needs; None: all files. Raises UsageError if there is no such rank."""
    if rank is None:
        return manifest.files
    owners = {owner for file in manifest.files if (owner := rank_of(file.path)) is not None}
    if rank not in owners:
        known = ", ".join(map(str, sorted(owners))) or "none"
        raise UsageError(
            f"`{manifest.name}` has no files of rank {rank}; it has those of: {known}",
            hint="pass a rank from 0 on, or leave out `--rank` to pull all of them",
        )
    return tuple(file for file in manifest.files if rank_of(file.path) in (None, rank))
