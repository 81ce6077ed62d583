"""Addresses: names of artifacts in a store on the command line.

s3://bucket/engines/mixtral@current     tag `current` of `mixtral` in the store s3://bucket/engines/
s3://bucket/engines/mixtral             `mixtral` there, no tag
s3://bucket/engines/                    the store itself: it ends with `/`
file:///srv/engines/mixtral@v1, artifacts/mixtral@v1, mixtral@sha256:<64 hexadecimal digits>
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from compiler.errors import UsageError

DEFAULT_STORE = "artifacts/"
"""The store of an address that names none."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Address:
    """A parsed address. `root`: the store's URI, ending with `/`. `ref`: a tag, or a manifest's digest `sha256:...`."""

    root: str
    name: str | None = None
    ref: str | None = None

    def __str__(self) -> str:
        return self.root + (self.name or "") + (f"@{self.ref}" if self.ref else "")


def parse_address(text: str) -> Address:
    """Parse an address. Raises UsageError."""
    root, slash, last = text.rpartition("/")
    if text.startswith("s3://") and root == "s3:/":
        if "@" in last or not last:
            raise UsageError(f"`{text}` names no bucket", hint="pass `s3://bucket/prefix/name@tag`")
        return Address(text + "/")
    name, at, ref = last.partition("@")
    root = root + slash if slash else DEFAULT_STORE
    if not name:
        if at:
            raise UsageError(f"`{text}` has a tag and no name", hint="pass STORE/NAME@TAG")
        return Address(root)
    if at and not is_digest(ref):
        check_name(ref, "a tag")
    return Address(root, check_name(name, "the name of an artifact"), ref if at else None)


def check_name(name: str, what: str) -> str:
    """Check that `name` may be part of a key and the name of a folder, and return it. Raises UsageError."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise UsageError(
            f"`{name}` cannot be {what}",
            hint="use at most 128 letters, digits, `.`, `_` and `-`, the first one a letter or a digit; "
            f"not {', '.join(sorted(_TAKEN))}",
        )
    return name


_TAKEN = frozenset({"blobs", "manifests", "refs"})


def is_digest(text: str) -> bool:
    """Whether a text is a digest `sha256:<64 hexadecimal digits>`."""
    return _DIGEST.fullmatch(text) is not None


def is_store(output: str | None) -> bool:
    """Whether `--output` is the URI of a store (`s3://...`, `file://...`) rather than a folder."""
    return output is not None and "://" in output
