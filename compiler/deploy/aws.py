"""Sessions of boto3, and errors of SageMaker's requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compiler.errors import DeployError, UsageError


def session(region: str) -> Any:
    """Session of boto3; "": its own region. Raises UsageError where none is set."""
    import boto3

    session = boto3.Session(region_name=region or None)
    if not session.region_name:
        raise UsageError("no AWS region is set", hint="pass `--region`, or set AWS_REGION")
    return session


@contextmanager
def calling(name: str) -> Iterator[None]:
    """Context of one request to AWS: its exceptions become DeployError."""
    import botocore.exceptions

    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _refused(name, error) from error
    except botocore.exceptions.BotoCoreError as error:
        raise DeployError(f"{name}: {error}", hint="check the credentials, the region and the network") from error


_HINTS = {
    "AccessDeniedException": "the credentials in use need sagemaker:Create*, and iam:PassRole for the role",
    "ResourceLimitExceeded": "request a higher quota of this instance type for endpoints, or use another type",
    "ExpiredTokenException": "log in again",
}


def _refused(name: str, error: Any) -> DeployError:
    answer = error.response.get("Error", {})
    code, message = answer.get("Code", ""), answer.get("Message", str(error))
    absent = "check the name and `--region`" if "Could not find" in message else ""
    hint = absent or _HINTS.get(code, "check the request")
    return DeployError(f"SageMaker refuses {name}: {code}: {message}", hint=hint)
