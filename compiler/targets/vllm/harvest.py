"""Collection of a server's caches into one archive, without locks, unfinished files and secrets.

The archive is a gzipped tar: Python's standard library unpacks it in any image, which is not so for zstd. Names are
sorted; owners and times are zero.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LEFT_OUT = re.compile(r"(^|/)(locks|tmp)/|\.(lock|tmp|part|pid)$|(^|/)\.[^/]*\.part$")
"""Locks and files that their writer has not finished."""
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SECRET = re.compile(rb"\b(AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----)")
"""Texts that are secrets by their form: AWS access keys, tokens of Hugging Face, private keys."""
_SHORTEST = 8
"""Characters of a variable's value that is looked for; shorter ones occur by chance."""
_LEVEL = 6


@dataclass(frozen=True)
class CacheFile:
    """File of a cache: path below the root, size in bytes, `digest` of its bytes, and whether it is a pickle."""

    path: str
    size: int
    digest: str
    pickle: bool


def cache_file(path: str, data: bytes) -> CacheFile:
    """Facts of a file."""
    pickle = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return CacheFile(path, len(data), f"sha256:{hashlib.sha256(data).hexdigest()}", pickle)


def cache_files(root: Path) -> Iterator[Path]:
    """Files of the caches below `root`, sorted, without locks and unfinished files."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and not _LEFT_OUT.search(path.relative_to(root).as_posix()):
            yield path


def names(root: Path) -> frozenset[str]:
    """Paths of `cache_files` below `root`."""
    return frozenset(path.relative_to(root).as_posix() for path in cache_files(root)) if root.is_dir() else frozenset()


def harvest(root: Path, archive: Path, environment: Mapping[str, str]) -> tuple[CacheFile, ...]:
    """Write the caches below `root` to `archive`. `environment`: variables whose secrets must not occur in any file.

    Raises ArtifactError if a file has a secret, or there are no files.
    """
    secrets = {
        value.encode(): name
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    found = []
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out,
    ):
        for path in cache_files(root):
            name, data = path.relative_to(root).as_posix(), path.read_bytes()
            _check_secrets(name, data, secrets)
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if path.stat().st_mode & 0o100 else 0o644
            out.addfile(member, io.BytesIO(data))
            found.append(cache_file(name, data))
    if not found:
        raise ArtifactError(
            f"the server left no file in its cache folder {root}",
            hint="see server.log in the log of the error: with `--enforce-eager` or another mode nothing is compiled",
        )
    return tuple(found)


def _check_secrets(name: str, data: bytes, secrets: Mapping[bytes, str]) -> None:
    variable = next((variable for value, variable in secrets.items() if value in data), None)
    if variable is not None or _SECRET.search(data):
        what = f"the value of `{variable}`" if variable else "a text with the form of a credential"
        raise ArtifactError(
            f"cache file {name} has {what}",
            hint="build without this variable, and revoke the credential if the cache was published",
        )
