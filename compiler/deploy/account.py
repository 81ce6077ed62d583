"""Checks of a deployment that only the AWS account can answer: region, bucket and role, before the first request to
SageMaker. A question that the credentials may not ask is a warning.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compiler.deploy.aws import calling
from compiler.errors import DeployError, IncompatibleError, UsageError
from compiler.lmi.sagemaker import ROLE

SERVICE = "sagemaker.amazonaws.com"


def check_region(session: Any) -> str:
    """Region of a session. Raises UsageError for a region in which botocore knows no SageMaker."""
    known = [
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("sagemaker", partition)
    ]
    region = str(session.region_name)
    if region not in known:
        near = ", ".join(difflib.get_close_matches(region, known, n=3) or ["us-east-1"])
        raise UsageError(f"SageMaker has no region called `{region}`", hint=f"nearest: {near}")
    return region


def check_bucket(session: Any, bucket: str, region: str) -> Iterator[str]:
    """Check that a bucket is in the endpoint's region; yields warnings. Raises IncompatibleError."""
    with _asking(f"where the bucket `{bucket}` is") as warnings:
        place = _bucket_region(session.client("s3"), bucket)
        if place != region:
            raise IncompatibleError(
                f"the bucket `{bucket}` is in {place}; the endpoint would be in {region}",
                hint=f"`--region {place}`, or push the artifact to a bucket in {region}",
            )
    yield from warnings


def check_role(session: Any, role: str) -> Iterator[str]:
    """Check that a role exists and that SageMaker can assume it; yields warnings. Raises UsageError, IncompatibleError.

    A malformed ARN is refused by `lmi.sagemaker.Deployment`.
    """
    match = re.fullmatch(ROLE, role)
    if match is None:
        return
    name = match[2].rpartition("/")[2]
    with _asking(f"whether SageMaker can assume the role `{name}`") as warnings:
        found = _role(session.client("iam"), name, role)
        if found["Arn"] != role:
            raise UsageError(
                f"the role `{name}` has the ARN {found['Arn']}; found {role}", hint=f"--role {found['Arn']}"
            )
        if not _trusts(found["AssumeRolePolicyDocument"], SERVICE):
            raise IncompatibleError(
                f"the role `{name}` cannot be assumed by {SERVICE}: its trust policy does not allow it",
                hint=f"allow sts:AssumeRole for the principal {SERVICE}, or name another role",
            )
    yield from warnings


def _bucket_region(client: Any, bucket: str) -> str:
    with calling("GetBucketLocation"):
        place = client.get_bucket_location(Bucket=bucket)["LocationConstraint"]
    return {None: "us-east-1", "EU": "eu-west-1"}.get(place) or str(place)


def _role(client: Any, name: str, role: str) -> dict[str, Any]:
    try:
        with calling("GetRole"):
            found: dict[str, Any] = client.get_role(RoleName=name)["Role"]
    except DeployError as error:
        if "NoSuchEntity" in error.message:
            raise UsageError(
                f"there is no role {role} in the account of the credentials", hint="`aws iam list-roles` lists them"
            ) from None
        raise
    return found


def _trusts(policy: Any, service: str) -> bool:
    """Whether a trust policy allows a service to assume the role; boto3 decodes it from JSON."""
    document = json.loads(policy) if isinstance(policy, str) else policy
    for statement in _listed(document.get("Statement", [])):
        principal = statement.get("Principal", {})
        services = ["*"] if principal == "*" else _listed(principal.get("Service", []))
        actions = _listed(statement.get("Action", []))
        if (
            statement.get("Effect") == "Allow"
            and {service, "*"} & set(services)
            and {"sts:AssumeRole", "sts:*", "*"} & set(actions)
        ):
            return True
    return False


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@contextmanager
def _asking(question: str) -> Iterator[list[str]]:
    """Context of a question to AWS; a refusal becomes a warning."""
    warnings: list[str] = []
    try:
        yield warnings
    except DeployError as error:
        warnings.append(f"not checked {question}: {error.message}")
