"""Object stores: bytes under keys, each object whole or not there. One interface, a folder and S3 behind it.

types.py      the interface, and what it speaks of
local.py      a folder
s3.py         S3 and what speaks its protocol, through boto3
conditions.py which conditional writes a server really honours, and writes that know
upload.py     files into a store: in parts, at once, continued after a kill
download.py   files out of a store: ranges, at once, continued after a kill, verified as they arrive
flow.py       many parts at once, in order where it matters
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.storage.objects.types import ObjectStore


def open_store(uri: str) -> ObjectStore:
    """The store whose root is `s3://bucket[/prefix]`, `file:///folder` or a path. Opens no connection.

    Raises UsageError.
    """
    if uri.startswith("s3://"):
        from compiler.storage.objects.s3 import S3Store

        return S3Store(uri)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise UsageError(f"`{uri}`: no store speaks `{scheme}`", hint="expected s3://bucket/prefix, or a folder")
    from pathlib import Path

    from compiler.storage.objects.local import LocalStore

    return LocalStore(Path(rest if separator else uri).expanduser())
