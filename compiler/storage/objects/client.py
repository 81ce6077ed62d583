"""The boto3 client of a process, its retries, and the translation of its errors.

Profile, region and role come from boto3's own chain (AWS_PROFILE, AWS_REGION, ~/.aws/config, the instance's role);
AWS_ENDPOINT_URL names any other server. Two settings have no place in that chain:

    LMI_COMPILE_S3_KMS_KEY           encrypt new objects with this KMS key (SSE-KMS)
    LMI_COMPILE_S3_REQUESTER_PAYS=1  pay for requests to other people's buckets
"""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compiler.errors import LmiCompileError, NotFoundError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 32
_HINTS = {
    "NoSuchBucket": "check the name of the bucket",
    "AccessDenied": "grant the credentials in use this permission (s3:ListBucket, s3:GetObject, s3:PutObject ...)",
    "403": "grant the credentials in use s3:ListBucket and s3:GetObject there",
    "InvalidAccessKeyId": "check the credentials in use (AWS_PROFILE, AWS_ACCESS_KEY_ID)",
    "SignatureDoesNotMatch": "check the credentials in use (AWS_SECRET_ACCESS_KEY)",
    "ExpiredToken": "log in again",
    "NoSuchUpload": "run the same command again: the upload was aborted, a new one begins",
    "SlowDown": "run the same command again later: it resumes, and the server wants fewer requests",
}
MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
NOT_MET = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
"""Error codes of a conditional write whose condition was not met."""
_WRONG_DIGEST = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "XAmzContentChecksumMismatch"})
_TRIES = 5
_NEXT = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_parts": {"PartNumberMarker": "NextPartNumberMarker"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
}
"""Parameters of the request for the next page, and the fields of a page that have their values."""


class Client:
    """boto3's client for S3, made at its first request; `uri`: the store's name in errors."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @property
    def _made(self) -> Any:
        with s3_errors(self._uri), _making:
            return _client(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))

    @property
    def checks_crc(self) -> bool:
        """Whether the server is AWS, which checks the CRC of a request; other servers may not."""
        return str(self._made.meta.endpoint_url).split("/")[2].endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def call(self, operation: str, **parameters: Any) -> Any:
        """Make one request; repeat it after a broken answer or a wrong checksum, which boto3 does not do."""
        import botocore.exceptions
        import botocore.parsers
        import urllib3.exceptions

        request = getattr(self._made, operation)
        for attempt in range(_TRIES - 1):
            try:
                return request(**parameters)
            except botocore.exceptions.ClientError as error:
                if code_of(error) not in _WRONG_DIGEST:
                    raise
            except (urllib3.exceptions.HTTPError, botocore.parsers.ResponseParserError):
                pass
            wait(attempt)
        return request(**parameters)

    def pages(self, operation: str, **parameters: Any) -> Iterator[Any]:
        """All pages of a listing."""
        while True:
            page = self.call(operation, **parameters)
            yield page
            if not page.get("IsTruncated"):
                return
            parameters |= {ours: page[theirs] for ours, theirs in _NEXT[operation].items() if page.get(theirs)}


def wait(attempt: int) -> None:
    """Sleep before the next attempt, longer after each; `attempt` from 0."""
    time.sleep(min(0.05 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))  # noqa: S311  # spreads retries, hides nothing


_making = threading.Lock()
_clients: dict[tuple[tuple[str, str], ...], Any] = {}
"""The client by the AWS settings in the environment that it was made with: a change makes a new one."""


def _client(settings: tuple[tuple[str, str], ...]) -> Any:
    if settings not in _clients:
        for client in _clients.values():
            client.close()
        _clients.clear()
        _clients[settings] = _new_client()
    return _clients[settings]


def _new_client() -> Any:
    import boto3
    from botocore.config import Config

    # Other servers than AWS may lack the checksums that newer clients send and request by default. Ours go with each
    # part (s3.py), in signed headers, which binds the body; downloads are compared with digests.
    config = Config(
        signature_version="s3v4",
        s3={"payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 6},
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
    )
    return boto3.Session().client("s3", config=config)


def write_options() -> dict[str, str]:
    """Parameters of every request that makes an object. No ACL: the bucket's owner owns the objects."""
    key = os.environ.get("LMI_COMPILE_S3_KMS_KEY")
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}


def request_options() -> dict[str, str]:
    """Parameters of every request."""
    return {"RequestPayer": "requester"} if os.environ.get("LMI_COMPILE_S3_REQUESTER_PAYS") == "1" else {}


def code_of(error: Any) -> str:
    """The code of a botocore ClientError: `NoSuchKey`, `412`."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn any error of boto3 inside the context into a StoreError about `uri`."""
    import botocore.exceptions
    import urllib3.exceptions

    try:
        yield
    except LmiCompileError:
        raise
    except botocore.exceptions.ClientError as error:
        code = code_of(error)
        kind = NotFoundError if code in MISSING else StoreError
        hint = _HINTS.get(code, "check the bucket, the credentials and the region")
        raise kind(f"{uri}: {error}", hint=hint) from error
    except botocore.exceptions.NoCredentialsError:
        raise StoreError(
            f"no credentials for {uri}", hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
        raise StoreError(
            f"{uri} could not be reached: {error}", hint="check the network, the region and AWS_ENDPOINT_URL"
        ) from error
