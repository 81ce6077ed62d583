"""S3 and compatible servers as an object store.

Every upload carries its CRC-32, which AWS checks before it stores anything. Other servers may check only an MD5, or
nothing. So an object written in one request carries its MD5 too, and the MD5 of a part is compared with its ETag, which
most servers make of it; that saves the server from hashing it twice. If they differ, the part is sent again with its
MD5 for the server to check.
"""

from __future__ import annotations

import base64
import hashlib
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from zlib_ng.zlib_ng import crc32

from compiler.errors import NotFoundError, StoreError, UsageError
from compiler.storage.objects.client import (
    MISSING,
    NOT_MET,
    Client,
    code_of,
    request_options,
    s3_errors,
    wait,
    write_options,
)
from compiler.storage.objects.types import ANYTHING, NOTHING, Object, Unfinished, Upload, UploadPart, conflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_BODY_TRIES = 8
"""Attempts to read one range, each from the byte at which the one before it broke off."""
_SLICE = 1 << 20
_DELETE_AT_ONCE = 1000


class S3Store:
    """Object store at `s3://bucket[/prefix]` (see types.ObjectStore)."""

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise UsageError(f"`{uri}` names no bucket", hint="pass `s3://bucket/prefix`")
        prefix = prefix.rstrip("/")
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{self._prefix}"
        self._client = Client(self.uri)
        self._etag_is_md5 = True  # of parts, until one shows otherwise

    def head(self, key: str) -> Object | None:
        try:
            with s3_errors(self.uri + key):
                found = self._client.call("head_object", **self._at(key))
        except NotFoundError:
            return None
        return Object(key, int(found["ContentLength"]), found["ETag"], found["LastModified"].timestamp())

    def read(self, key: str) -> tuple[bytes, str]:
        with s3_errors(self.uri + key):
            for attempt in range(_BODY_TRIES):
                answer = self._client.call("get_object", **self._at(key))
                with closing(answer["Body"]) as body, suppress(*_broken_body()):
                    data: bytes = body.read()
                    if len(data) == int(answer["ContentLength"]):
                        return data, str(answer["ETag"])
                wait(attempt)
        raise StoreError(f"{self.uri}{key}: the connection broke off {_BODY_TRIES} times", hint=_AGAIN)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        got, last = 0, start + len(buffer) - 1
        with s3_errors(self.uri + key):
            for attempt in range(_BODY_TRIES):
                answer = self._client.call("get_object", **self._at(key), Range=f"bytes={start + got}-{last}")
                with closing(answer["Body"]) as body:
                    if int(answer["ContentLength"]) != len(buffer) - got:
                        raise StoreError(
                            f"{self.uri}{key}: expected bytes {start + got} to {last}, "
                            f"the server offers {answer['ContentLength']} bytes",
                            hint="push the artifact again with `--repair`, or use a server that supports ranged reads",
                        )
                    with suppress(*_broken_body()):
                        for count in _fill(body, buffer[got:]):
                            got += count
                if got == len(buffer):
                    return
                wait(attempt)
        raise StoreError(f"{self.uri}{key}: the connection broke off {_BODY_TRIES} times", hint=_AGAIN)

    def put(self, key: str, data: bytes, over: str = ANYTHING) -> Object:
        import botocore.exceptions

        crc = _crc(data)
        conditions = {ANYTHING: {}, NOTHING: {"IfNoneMatch": "*"}}.get(over, {"IfMatch": over})
        with s3_errors(self.uri + key):
            try:
                answer = self._client.call(
                    "put_object",
                    **self._at(key),
                    **write_options(),
                    **self._checksums(data, crc),
                    **conditions,
                    Body=data,
                )
            except botocore.exceptions.ClientError as error:
                if conditions and code_of(error) in NOT_MET | MISSING:
                    raise conflict(self.uri + key) from error
                raise
            self._compare(key, crc, answer)
        return Object(key, len(data), answer["ETag"], time.time())

    def walk(self, prefix: str) -> Iterator[Object]:
        with s3_errors(self.uri + prefix):
            for page in self._client.pages("list_objects_v2", **self._below(prefix)):
                yield from self._objects(page)

    def children(self, folder: str) -> tuple[list[str], list[Object]]:
        folders: list[str] = []
        objects: list[Object] = []
        with s3_errors(self.uri + folder):
            for page in self._client.pages("list_objects_v2", **self._below(folder), Delimiter="/"):
                skip = len(self._prefix + folder)
                folders += [item["Prefix"][skip:-1] for item in page.get("CommonPrefixes", [])]
                objects += self._objects(page)
        return folders, objects

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._prefix + key for key in keys]
        for first in range(0, len(names), _DELETE_AT_ONCE):
            wanted = [{"Key": name} for name in names[first : first + _DELETE_AT_ONCE]]
            with s3_errors(self.uri):
                answer = self._client.call(
                    "delete_objects",
                    Bucket=self._bucket,
                    Delete={"Objects": wanted, "Quiet": True},
                    **request_options(),
                )
            for problem in answer.get("Errors", []):
                raise StoreError(
                    f"s3://{self._bucket}/{problem['Key']} could not be deleted: {problem['Message']}",
                    hint="grant the credentials in use s3:DeleteObject there",
                )

    def begin(self, key: str, part_size: int) -> Upload:
        with s3_errors(self.uri + key):
            answer = self._client.call(
                "create_multipart_upload", **self._at(key), **write_options(), ChecksumAlgorithm="CRC32"
            )
        return Upload(key, answer["UploadId"], part_size)

    def send(self, upload: Upload, number: int, data: bytes) -> UploadPart:
        crc = _crc(data)
        part = {**self._at(upload.key), "UploadId": upload.id, "PartNumber": number, "ChecksumCRC32": _base64(crc)}
        with s3_errors(self.uri + upload.key):
            if self._client.checks_crc:
                answer = self._client.call("upload_part", **part, Body=data)
            else:
                answer = self._send_compared(upload, part, data)
            self._compare(upload.key, crc, answer)
        return UploadPart(number, len(data), answer["ETag"], crc.hex())

    def _send_compared(self, upload: Upload, part: Mapping[str, Any], data: bytes) -> Any:
        import botocore.exceptions

        md5 = _md5(data)
        if self._etag_is_md5:
            answer = self._client.call("upload_part", **part, Body=data)
            if _etag_is(answer, md5):
                return answer
        # Other bytes have arrived, or its ETags are no MD5s.
        try:
            answer = self._client.call("upload_part", **part, Body=data, ContentMD5=_base64(md5))
        except botocore.exceptions.ClientError:
            self.abort(upload)  # some servers cannot replace a part: the next run begins anew
            raise
        self._etag_is_md5 = _etag_is(answer, md5)
        return answer

    def sent(self, upload: Upload) -> list[UploadPart] | None:
        import botocore.exceptions

        parts: list[UploadPart] = []
        with s3_errors(self.uri + upload.key):
            try:
                for page in self._client.pages("list_parts", **self._at(upload.key), UploadId=upload.id):
                    parts += [_part(item) for item in page.get("Parts", [])]
            except botocore.exceptions.ClientError as error:
                if code_of(error) in MISSING | {"NoSuchUpload"}:
                    return None
                raise
        return parts

    def finish(self, upload: Upload, parts: Sequence[UploadPart]) -> None:
        listed = [
            {"PartNumber": part.number, "ETag": part.etag}
            | ({"ChecksumCRC32": _base64_of_hex(part.crc32)} if part.crc32 else {})
            for part in sorted(parts, key=lambda part: part.number)
        ]
        with s3_errors(self.uri + upload.key):
            self._client.call(
                "complete_multipart_upload",
                **self._at(upload.key),
                UploadId=upload.id,
                MultipartUpload={"Parts": listed},
            )

    def abort(self, upload: Upload | Unfinished) -> None:
        import botocore.exceptions

        with s3_errors(self.uri + upload.key):
            try:
                self._client.call("abort_multipart_upload", **self._at(upload.key), UploadId=upload.id)
            except botocore.exceptions.ClientError as error:
                if code_of(error) not in MISSING | {"NoSuchUpload"}:
                    raise

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        import botocore.exceptions

        with s3_errors(self.uri + prefix):
            try:
                for page in self._client.pages("list_multipart_uploads", **self._below(prefix)):
                    for item in page.get("Uploads", []):
                        key = item["Key"].removeprefix(self._prefix)
                        yield Unfinished(key, item["UploadId"], item["Initiated"].timestamp())
            except botocore.exceptions.ClientError as error:
                if code_of(error) != "NoSuchUpload":  # rclone's answer for a bucket without uploads
                    raise

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key, **request_options()}

    def _below(self, prefix: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Prefix": self._prefix + prefix, **request_options()}

    def _objects(self, page: Any) -> Iterator[Object]:
        for item in page.get("Contents", []):
            key = item["Key"][len(self._prefix) :]
            yield Object(key, int(item["Size"]), item["ETag"], item["LastModified"].timestamp())

    def _checksums(self, data: bytes, crc: bytes) -> dict[str, str]:
        sums = {"ChecksumCRC32": _base64(crc)}
        if not self._client.checks_crc:
            sums["ContentMD5"] = _base64(_md5(data))
        return sums

    def _compare(self, key: str, crc: bytes, answer: Any) -> None:
        if answer.get("ChecksumCRC32", _base64(crc)) != _base64(crc):
            raise StoreError(f"{self.uri}{key}: the server received other bytes than were sent", hint=_AGAIN)


_AGAIN = "run the same command again: it resumes"


def _fill(body: Any, buffer: memoryview) -> Iterator[int]:
    """Read a response into `buffer`; yields the number of bytes of each piece as it arrives."""
    done = 0
    while done < len(buffer):
        piece = body.read(min(_SLICE, len(buffer) - done))
        if not piece:
            return
        buffer[done : done + len(piece)] = piece
        done += len(piece)
        yield len(piece)


def _broken_body() -> tuple[type[Exception], ...]:
    """Exceptions from reading a response whose connection ends too early."""
    import botocore.exceptions
    import urllib3.exceptions

    return (
        botocore.exceptions.IncompleteReadError,
        botocore.exceptions.HTTPClientError,
        urllib3.exceptions.HTTPError,
        OSError,
    )


def _part(item: Any) -> UploadPart:
    crc = base64.b64decode(item.get("ChecksumCRC32") or "").hex()
    return UploadPart(int(item["PartNumber"]), int(item["Size"]), item["ETag"], crc)


def _crc(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "big")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _etag_is(answer: Any, md5: bytes) -> bool:
    return bool(answer["ETag"].strip('"') == md5.hex())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64_of_hex(digits: str) -> str:
    return _base64(bytes.fromhex(digits))
