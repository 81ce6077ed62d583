"""Containment checks: no file of an artifact leads out of its folder, and none is a pickle. Refused are

    links       files of the manifest that resolve to a path outside the folder
    members     of zip archives (`.pt2` packages are zips, which the loader unpacks) with absolute names, `..`,
                backslash, NUL, duplicate names, links, encryption, an implausible compression ratio
    pickles     by their first bytes or their name, among files and members: loading one runs code in it

The type of a file is determined by its content, not by its name.
"""

from __future__ import annotations

import re
import stat
import zipfile
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from compiler.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip archive: of a member or, in an empty one, of the end of the directory."""

_PICKLED_NAME = re.compile(r"\.(pkl|pickle|joblib|dill)$", re.IGNORECASE)
_PROTOCOL = re.compile(rb"\x80[\x02-\x05]")
"""The opcode PROTO, with which pickles since protocol 2 begin (pickletools)."""

_MOST_EXPANSION = 200
"""Limit of a member's size, in multiples of its compressed size. Compiled code and JSON have 10 to 20."""
_EXPANSION_COUNTS = 16 << 20
"""Bytes: smaller members may have any compression ratio."""


def check_contained(folder: Path, paths: Iterable[str]) -> None:
    """Check `paths` below `folder` against the rules at the top of this file. Raises ArtifactError with all problems.

    Skips missing files, which `check_files` reports.
    """
    root = folder.resolve()
    problems = []
    for path in paths:
        file = folder / path
        if not file.resolve().is_relative_to(root):
            problems.append(f"{path}: leads out of the folder")
        elif file.is_file():
            problems += [f"{path}: {problem}" for problem in problems_of(file)]
    if problems:
        raise ArtifactError(
            "\n".join([f"{folder} has files that no artifact may have:", *(f"  {p}" for p in problems[:40])]),
            hint="do not load it; find out its origin, and build it again",
        )


def problems_of(file: Path) -> Iterator[str]:
    """Problems of one file. Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(4)
    if head.startswith(ZIP):
        yield from _problems_of_zip(file)
    elif is_pickle(file.name, head):
        yield "is a pickle"


def is_pickle(name: str, head: bytes) -> bool:
    """Whether a file is a pickle, by its name or its first two bytes."""
    return _PROTOCOL.match(head) is not None or _PICKLED_NAME.search(name) is not None


def _problems_of_zip(file: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            seen: set[str] = set()
            for member in archive.infolist():
                name = member.filename
                if problem := _problem_of_member(member):
                    yield f"member `{_printable(name)}` {problem}"
                    continue
                if name in seen:
                    yield f"two members `{_printable(name)}`"
                seen.add(name)
                if not member.is_dir() and is_pickle(name, _head(archive, member)):
                    yield f"member `{_printable(name)}` is a pickle"
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        yield f"is a broken zip archive: {error}"


def _problem_of_member(member: zipfile.ZipInfo) -> str | None:
    name, pure = member.filename, PurePosixPath(member.filename)
    # zipfile cuts a name at its first NUL; `orig_filename` is the whole name.
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in member.orig_filename:
        return "leads out of the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > max(_EXPANSION_COUNTS, _MOST_EXPANSION * member.compress_size):
        return f"claims {member.file_size:,} bytes in {member.compress_size:,}"
    return None


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    opened: IO[bytes]
    with archive.open(member) as opened:
        return opened.read(2)


def _printable(name: str) -> str:
    """An untrusted name, without control characters, at most 100 characters."""
    return re.sub(r"[^ -~]", "?", name)[:100]
