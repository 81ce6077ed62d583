"""Object stores: bytes under keys, each object complete or absent. One interface for folders and S3.

types.py      the interface and its values
local.py      a folder
s3.py         S3 and compatible servers, through boto3
client.py     the boto3 client, retries, errors
conditions.py conditional writes, and whether a server supports them
upload.py     files into a store: parts in parallel, resumed after a kill
download.py   files out of a store: ranges in parallel, resumed after a kill, verified as they arrive
flow.py       parts in parallel, hashed in order
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.storage.objects.types import ObjectStore


def open_store(uri: str) -> ObjectStore:
    """Open the store at `s3://bucket[/prefix]`, `file:///folder` or a path. Makes no request.

    Raises UsageError.
    """
    if uri.startswith("s3://"):
        from compiler.storage.objects.s3 import S3Store

        return S3Store(uri)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise UsageError(
            f"`{uri}`: expected `s3://` or `file://`, found `{scheme}://`",
            hint="pass `s3://bucket/prefix/`, or a folder",
        )
    from pathlib import Path

    from compiler.storage.objects.local import LocalStore

    return LocalStore(Path(rest if separator else uri).expanduser())
