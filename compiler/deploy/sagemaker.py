"""SageMaker endpoint from an artifact in S3: below a plain prefix, or in a store by its name.

The manifest is compared with instance type and image first. Then model, configuration and endpoint are created, unless
they exist; if a request fails, those created before are deleted. An endpoint of that name gets the new configuration:
SageMaker starts it beside the old one, and keeps the old one where the new one does not come up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compiler.artifact.manifest import MANIFEST, Manifest, parse_manifest
from compiler.deploy.aws import calling, session
from compiler.deploy.preflight import rank_bytes, ranks
from compiler.errors import ArtifactError, DeployError, IncompatibleError, NotFoundError, UsageError
from compiler.lmi.fit import Needs, check_fit
from compiler.lmi.images import image_uri
from compiler.lmi.sagemaker import (
    Deployment,
    create_endpoint,
    create_endpoint_config,
    create_model,
    endpoint_name,
    update_endpoint,
)
from compiler.registry.resolve import resolve
from compiler.report import Report
from compiler.storage.files.digest import digest_bytes
from compiler.storage.objects import open_store
from compiler.storage.objects.types import ObjectStore
from compiler.targets import load

POLL_SECONDS = 15.0
_SLACK = 900
"""Seconds for the start of an instance, besides download and start of the container."""


@dataclass(frozen=True)
class DeployRequest:
    """Options of `deploy`. `artifact`: a prefix `s3://bucket/prefix/`, or an address in a store,
    `s3://bucket/store/NAME@TAG`; the tag is resolved once, so moving it later does not affect the endpoint.

    `image`: "" = the image that the artifact is packed for; `name`: "" = the artifact's; `region`: "" = the session's.
    The others are those of `lmi.sagemaker.Deployment`.
    """

    artifact: str
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
    """Deployment of a request, after checking that the artifact is complete and fits instance type and image.

    Reads the manifest, and names and sizes of the files; sends no request to SageMaker.

    Raises:
        ArtifactError: the manifest or a file is missing, or a file has another size.
        IncompatibleError: instance type or image cannot serve the artifact.
        StoreError: it cannot be read. UsageError: a value that SageMaker does not accept.
    """
    found = _find(request.artifact)
    manifest = parse_manifest(found.data, found.store.uri + found.folder + MANIFEST)
    _check_objects(manifest, found)
    needs = needs_of(manifest)
    image = request.image or needs.image
    if not image:
        raise UsageError(
            f"`{manifest.name}` is packed for no image", hint="pass `--image` with the name of one that serves it"
        )
    problems = load(manifest.target).runtime.endpoint_problems(manifest, image, request.instance_type)
    check_fit(needs, request.instance_type, image, problems)
    kind = request.instance_type if request.instance_type.startswith("ml.") else f"ml.{request.instance_type}"
    return Deployment(
        name=request.name or endpoint_name(manifest.name),
        content=digest_bytes(found.data),
        prefix=found.store.uri + found.folder,
        image=image_uri(image, str(session(request.region).region_name)),
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
    """Bodies of the three requests by name, in order, as `--dry-run` prints them."""
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
    """Create or update the endpoint and, with `wait`, wait until it is in service. Returns its name.

    Raises:
        DeployError: a request was refused (resources created before are deleted), the endpoint failed or took too long
            (it stays, with its logs), or an update was rolled back (the endpoint serves as before).
    """
    client = session(region).client("sagemaker")
    report.begin("deploy")
    model, name = deployment.model_name, deployment.name
    undo: list[Callable[[], object]] = []
    try:
        if _once("CreateModel", client.create_model, create_model(deployment)):
            undo.append(lambda: client.delete_model(ModelName=model))
        if _once("CreateEndpointConfig", client.create_endpoint_config, create_endpoint_config(deployment)):
            undo.append(lambda: client.delete_endpoint_config(EndpointConfigName=model))
        if not _once("CreateEndpoint", client.create_endpoint, create_endpoint(deployment)):
            with calling("UpdateEndpoint"):
                client.update_endpoint(**update_endpoint(deployment))
    except BaseException:
        for step in reversed(undo):
            try:
                with calling("the deletion of what was created"):
                    step()
            except DeployError as left:
                report.warn(f"{left.message}; `{model}` was not deleted")
        raise
    if not wait:
        report.end(f"{name} is starting")
        return name
    seconds = _wait(client, deployment, report, poll_seconds)
    report.end(f"{name} is in service after {seconds:.0f} s")
    return name


def needs_of(manifest: Manifest) -> Needs:
    """Requirements of an artifact, from its manifest."""
    return Needs(
        name=manifest.name,
        kind=manifest.device.kind,
        ranks=ranks(manifest),
        rank_bytes=rank_bytes(manifest),
        capability=manifest.device.capability,
        image=manifest.section.image_tag or "",
        stand_in=manifest.stand_in,
    )


@dataclass(frozen=True)
class _Found:
    """An artifact in S3. `folder`: prefix of its files in the store, ending in `/`; `data`: bytes of its manifest."""

    store: ObjectStore
    folder: str
    data: bytes


def _find(artifact: str) -> _Found:
    if not artifact.startswith("s3://"):
        raise UsageError(
            f"expected an artifact in S3 (s3://bucket/store/NAME@TAG or s3://bucket/prefix/); found `{artifact}`",
            hint="`lmi-compile push` puts it there",
        )
    if artifact.endswith("/"):
        store = open_store(artifact)
        try:
            return _Found(store, "", store.read(MANIFEST)[0])
        except NotFoundError:
            raise ArtifactError(
                f"{artifact}{MANIFEST} does not exist: expected an artifact below that prefix",
                hint=f"name the prefix to which the artifact's folder was uploaded; in a store, {artifact}NAME@TAG",
            ) from None
    found = resolve(artifact)
    if found.layout != "plain":
        raise IncompatibleError(
            f"{found.address} shares its files with others (layout `{found.layout}`): there is no prefix to mount",
            hint="push it with `--layout plain`",
        )
    return _Found(found.store, found.manifest_key.removesuffix(MANIFEST), found.data)


def _check_objects(manifest: Manifest, found: _Found) -> None:
    sizes = {item.key.removeprefix(found.folder): item.size for item in found.store.walk(found.folder)}
    lost = [
        f"{file.path}: {'missing' if (size := sizes.get(file.path)) is None else f'{size} bytes'}, expected {file.size}"
        for file in manifest.files
        if sizes.get(file.path) != file.size
    ]
    if lost:
        where = found.store.uri + found.folder
        raise ArtifactError(
            "\n".join([f"{len(lost)} file(s) below {where} differ from the manifest:", *(f"  {p}" for p in lost)]),
            hint="upload the artifact again",
        )


def _once(name: str, call: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether this call created the resource. Names contain a digest, so an existing resource has the same content."""
    try:
        with calling(name):
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
        with calling("DescribeEndpoint"):
            found = client.describe_endpoint(EndpointName=deployment.name)
        status, seconds = found["EndpointStatus"], time.monotonic() - began
        logs = f"/aws/sagemaker/Endpoints/{deployment.name}"
        if status == "InService":
            if found.get("EndpointConfigName", deployment.model_name) != deployment.model_name:
                reason = found.get("FailureReason", "no reason given")
                raise DeployError(
                    f"endpoint {deployment.name} was rolled back to {found['EndpointConfigName']}: {reason}",
                    hint=f"it serves as before; CloudWatch logs: {logs}",
                )
            return seconds
        if status not in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
            reason = found.get("FailureReason", "no reason given")
            raise DeployError(f"endpoint {deployment.name} is {status}: {reason}", hint=f"CloudWatch logs: {logs}")
        if seconds > most:
            raise DeployError(
                f"endpoint {deployment.name} is still {status} after {seconds:.0f} s",
                hint=f"it keeps starting; CloudWatch logs: {logs}",
            )
        report.progress(int(seconds), most, "s")
        time.sleep(poll_seconds)
