"""Artifacts of random bytes, of any size, with correct manifests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from compiler.artifact.manifest import File
from compiler.storage.files.digest import OCTETS, digest_bytes
from tests.artifact import made


def write(folder: Path, seed: int = 0, *, size: int = 400, ranks: int = 2, **changes: Any) -> Path:
    """Write an artifact `tiny`: `ranks` files of `size` random bytes by `seed`, and small files."""
    source = random.Random(seed)
    content = dict(made.CONTENT) | {f"weights/rank{r}.safetensors": source.randbytes(size) for r in range(ranks)}
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    files = tuple(
        File(path=path, media_type=OCTETS, digest=digest_bytes(data), size=len(data))
        for path, data in sorted(content.items())
    )
    (folder / "manifest.json").write_bytes(made.manifest(files=files, **changes).to_bytes())
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Content of every file below `folder`, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
