"""Parts of an artifact: existing files, and small ones that are written with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from zlib_ng.zlib_ng import crc32

from compiler.storage.files.crc import crc_text
from compiler.storage.files.digest import JSON, OCTETS, SAFETENSORS, Descriptor, describe, digest_bytes

_MEDIA = {".json": JSON, ".safetensors": SAFETENSORS, ".html": "text/html"}


@dataclass(frozen=True)
class Part:
    """One file of an artifact: its descriptor, and its content as a path or as bytes."""

    descriptor: Descriptor
    content: Path | bytes
    executable: bool = False

    @property
    def path(self) -> str:
        """Path in the artifact."""
        return self.descriptor.path

    @property
    def name(self) -> str:
        """Name without the folder."""
        return self.path.rpartition("/")[2]

    def at(self, path: str) -> Part:
        """This file at another path of the artifact."""
        return replace(self, descriptor=replace(self.descriptor, path=path))

    def inside(self, folder: str) -> Part:
        """This file, directly in a folder of the artifact ("" = its root)."""
        return self.at(f"{folder}/{self.name}" if folder else self.name)

    def read(self) -> bytes:
        """Read the content. Raises OSError."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def _encoding(file: Path) -> str:
    """Encoding of a JSON file, from its first bytes."""
    with file.open("rb") as read:
        return json.detect_encoding(read.read(4))


def media_type(path: str) -> str:
    """Media type of a file, by its suffix."""
    return _MEDIA.get(Path(path).suffix, OCTETS)


def written(path: str, data: bytes, *, executable: bool = False) -> Part:
    """Make a part of bytes, written with the artifact."""
    crc = crc_text(crc32(data))
    return Part(Descriptor(path, media_type(path), digest_bytes(data), len(data), crc), data, executable)


def existing(file: Path, path: str) -> Part:
    """Make a part of an existing file, read for its digest. Raises OSError.

    JSON in UTF-16 or UTF-32, or with a byte order mark, becomes plain UTF-8: readers in containers take nothing else.
    """
    encoding = _encoding(file) if file.suffix == ".json" else "utf-8"
    if encoding != "utf-8":
        return written(path, file.read_bytes().decode(encoding).encode())
    found = describe(file.parent, file.name, media_type(path))
    return Part(replace(found, path=path), file)
