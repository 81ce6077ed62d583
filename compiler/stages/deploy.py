"""An endpoint on SageMaker from an artifact below an `s3://` prefix.

What the manifest says is compared with instance type and image first; then model, configuration and endpoint are made,
each only once. What a failed run has made it takes away again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from compiler.artifact.manifest import MANIFEST, Manifest, parse_manifest
from compiler.errors import ArtifactError, DeployError, SourceError, UsageError
from compiler.lmi.fit import Needs, check_fit
from compiler.lmi.images import image_uri
from compiler.lmi.sagemaker import Deployment, create_endpoint, create_endpoint_config, create_model, endpoint_name
from compiler.report import Report
from compiler.store.digest import digest_bytes

POLL_SECONDS = 15.0
_SLACK = 900
"""Seconds that an instance may take to start, beside download and start-up of the container."""


@dataclass(frozen=True)
class DeployRequest:
    """`prefix`: of the artifact. `image`: "" is the one that the artifact is packed for. `name`: "" is the artifact's.

    `region`: "" is the session's. The others as in `lmi.sagemaker.Deployment`.
    """

    prefix: str
    instance_type: str
    role: str
    image: str = ""
    name: str = ""
    region: str = ""
    count: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    startup_seconds: int = 1800
    download_seconds: int = 3600
    ami: str = ""
    isolated: bool = True


def prepare(request: DeployRequest) -> Deployment:
    """The deployment that `request` asks for, once its artifact is known to be whole and to fit.

    Reads the manifest and the names and sizes below the prefix; asks nothing of SageMaker.

    Raises:
        ArtifactError: no manifest at the prefix, a file that is missing or of another size.
        IncompatibleError: instance type or image cannot serve it.
        SourceError: the prefix cannot be read. UsageError: what SageMaker would not take.
    """
    prefix = request.prefix.rstrip("/") + "/"
    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    if not prefix.startswith("s3://") or not bucket or not key:
        raise UsageError(f"an artifact that is deployed is below `s3://bucket/prefix/`; found `{request.prefix}`")
    session = _session(request.region)
    with _reading(prefix):
        client = session.client("s3")
        data = _get(client, bucket, key + MANIFEST)
        manifest = parse_manifest(data, prefix + MANIFEST)
        _check_objects(manifest, prefix, _sizes(client, bucket, key))
    needs = needs_of(manifest)
    image = request.image or needs.image
    if not image:
        raise UsageError(
            f"`{manifest.name}` is packed for no image", hint="Pass `--image` with the name of one that serves it."
        )
    check_fit(needs, request.instance_type, image)
    kind = request.instance_type if request.instance_type.startswith("ml.") else f"ml.{request.instance_type}"
    return Deployment(
        name=request.name or endpoint_name(manifest.name),
        content=digest_bytes(data),
        prefix=prefix,
        image=image_uri(image, str(session.region_name)),
        role=request.role,
        instance_type=kind,
        count=request.count,
        environment=request.environment,
        startup_seconds=request.startup_seconds,
        download_seconds=request.download_seconds,
        ami=request.ami,
        isolated=request.isolated,
    )


def requests_of(deployment: Deployment) -> dict[str, Any]:
    """The three requests by name, in their order: what `--dry-run` prints."""
    return {
        "CreateModel": create_model(deployment),
        "CreateEndpointConfig": create_endpoint_config(deployment),
        "CreateEndpoint": create_endpoint(deployment),
    }


def deploy(
    deployment: Deployment,
    report: Report,
    *,
    region: str = "",
    wait: bool = True,
    poll_seconds: float = POLL_SECONDS,
) -> str:
    """Make the endpoint and, with `wait`, see it start. Returns its name.

    Raises:
        DeployError: a request was refused (what was made before is gone again), or the endpoint failed or took too long
            (it stays, with its logs).
    """
    client = _session(region).client("sagemaker")
    report.begin("deploy")
    model, name = deployment.model_name, deployment.name
    undo: list[Callable[[], object]] = []
    try:
        if _once("CreateModel", client.create_model, create_model(deployment)):
            undo.append(lambda: client.delete_model(ModelName=model))
        if _once("CreateEndpointConfig", client.create_endpoint_config, create_endpoint_config(deployment)):
            undo.append(lambda: client.delete_endpoint_config(EndpointConfigName=model))
        with _calling("CreateEndpoint"):
            client.create_endpoint(**create_endpoint(deployment))
    except BaseException:
        for step in reversed(undo):
            with _calling("delete what was made"):
                step()
        raise
    if not wait:
        report.end(f"{name} is starting")
        return name
    seconds = _wait(client, deployment, report, poll_seconds)
    report.end(f"{name} is in service after {seconds:.0f} s")
    return name


def needs_of(manifest: Manifest) -> Needs:
    """What the manifest says that its artifact needs."""
    engines = manifest.engines
    loaded = set(manifest.section.paths)
    return Needs(
        name=manifest.name,
        kind=manifest.device.kind,
        ranks=manifest.parallel.tp * manifest.parallel.pp,
        nbytes=sum(file.size for file in manifest.files if file.path in loaded),
        capability=manifest.device.capability,
        trtllm=engines.version if engines else "",
        image=(engines.image or "") if engines else "",
        stand_in=manifest.stand_in,
    )


def _check_objects(manifest: Manifest, prefix: str, sizes: Mapping[str, int]) -> None:
    lost = [
        f"{file.path}: {'missing' if found is None else f'{found} bytes'}, expected {file.size}"
        for file in manifest.files
        if (found := sizes.get(file.path)) != file.size
    ]
    if lost:
        raise ArtifactError(
            "\n".join(
                [f"{len(lost)} file(s) below {prefix} are not what the manifest says:", *(f"  {p}" for p in lost)]
            ),
            hint="upload the artifact again",
        )


def _once(name: str, call: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether this call made it. Of one name there is one content, so what is there already is as good."""
    try:
        with _calling(name):
            call(**arguments)
    except DeployError as error:
        if "already exist" in error.message:
            return False
        raise
    return True


def _wait(client: Any, deployment: Deployment, report: Report, poll_seconds: float) -> float:
    began = time.monotonic()
    most = deployment.download_seconds + deployment.startup_seconds + _SLACK
    while True:
        with _calling("DescribeEndpoint"):
            found = client.describe_endpoint(EndpointName=deployment.name)
        status, seconds = found["EndpointStatus"], time.monotonic() - began
        if status == "InService":
            return seconds
        logs = f"/aws/sagemaker/Endpoints/{deployment.name}"
        if status not in ("Creating", "Updating", "SystemUpdating"):
            reason = found.get("FailureReason", "no reason given")
            raise DeployError(f"endpoint {deployment.name} is {status}: {reason}", hint=f"CloudWatch logs: {logs}")
        if seconds > most:
            raise DeployError(
                f"endpoint {deployment.name} is still {status} after {seconds:.0f} s",
                hint=f"It goes on starting. CloudWatch logs: {logs}",
            )
        report.progress(int(seconds), most, "s")
        time.sleep(poll_seconds)


def _session(region: str) -> Any:
    import boto3

    session = boto3.Session(region_name=region or None)
    if not session.region_name:
        raise UsageError("no AWS region is set", hint="Pass `--region`, or set AWS_REGION.")
    return session


def _get(client: Any, bucket: str, key: str) -> bytes:
    try:
        data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        raise ArtifactError(
            f"s3://{bucket}/{key} does not exist: expected an artifact at that prefix",
            hint="the prefix is the one under which the artifact's folder was uploaded",
        ) from None
    return data


def _sizes(client: Any, bucket: str, prefix: str) -> dict[str, int]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {item["Key"][len(prefix) :]: int(item["Size"]) for page in pages for item in page.get("Contents", [])}


@contextmanager
def _reading(prefix: str) -> Iterator[None]:
    import botocore.exceptions

    try:
        yield
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise SourceError(f"{prefix}: {error}", hint="check the bucket, the credentials and the region") from error


@contextmanager
def _calling(name: str) -> Iterator[None]:
    import botocore.exceptions

    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _refused(name, error) from error
    except botocore.exceptions.BotoCoreError as error:
        raise DeployError(f"{name}: {error}", hint="check the credentials, the region and the network") from error


_HINTS = {
    "AccessDeniedException": "the credentials in use need sagemaker:Create*, and iam:PassRole for the role",
    "ResourceLimitExceeded": "ask for a higher quota of this instance type for endpoints, or take another one",
    "ValidationException": "an endpoint of this name may be there already: pass `--name`",
    "ExpiredTokenException": "log in again",
}


def _refused(name: str, error: Any) -> DeployError:
    told = error.response.get("Error", {})
    code, message = told.get("Code", ""), told.get("Message", str(error))
    return DeployError(f"SageMaker refuses {name}: {code}: {message}", hint=_HINTS.get(code, "check the request"))
