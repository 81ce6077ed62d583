"""Preparation of a deployment: everything that can be checked before the first request to SageMaker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.deploy import aws
from compiler.deploy.account import check_bucket, check_region, check_role
from compiler.deploy.needs import needs_of
from compiler.deploy.source import find_artifact
from compiler.deploy.time_limits import TimeLimits, time_limits
from compiler.errors import UsageError
from compiler.lmi.amis import ami_of
from compiler.lmi.components import copies_of, create_inference_component, resources_of
from compiler.lmi.fit import VOLUME_GB, check_fit
from compiler.lmi.images import image_uri
from compiler.lmi.instances import full_name
from compiler.lmi.sagemaker import (
    Deployment,
    create_endpoint,
    create_endpoint_config,
    create_model,
    endpoint_name,
)
from compiler.storage.files.digest import digest_bytes
from compiler.targets import load

if TYPE_CHECKING:
    from compiler.lmi.capacity import Fit
    from compiler.lmi.fit import Needs

_VOLUME_SLACK = 30
"""GB of a storage volume besides the artifact: the image and its logs. An estimate of ours."""


@dataclass(frozen=True)
class DeployRequest:
    """Options of `deploy`. `artifact`: a prefix `s3://bucket/prefix/`, or an address in a store,
    `s3://bucket/store/NAME@TAG`; the tag is resolved once, so moving it later does not affect the endpoint.

    `image`: "" = the image that the artifact is packed for; `name`: "" = the artifact's; `region`: "" = the session's;
    `ami`: see `lmi.amis`; `copies`: number of copies, `auto` = all that fit, "" = one an instance, without components.
    `startup_seconds`, `download_seconds`: None = from the size and the report `prewarm` (None: the one in the
    artifact's folder), see time_limits.py. The others are those of `lmi.sagemaker.Deployment`.
    """

    artifact: str
    instance_type: str
    role: str
    image: str = ""
    name: str = ""
    region: str = ""
    count: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    startup_seconds: int | None = None
    download_seconds: int | None = None
    ami: str = ""
    isolated: bool = True
    copies: str = ""
    prewarm: Path | None = None


@dataclass(frozen=True)
class PreparedDeployment:
    """Checked deployment. `fit`: copies that one instance has room for. `limits`: derived time limits, and the time to
    the first token of the prewarm. `warnings`: what was not checked, or left unused.
    """

    deployment: Deployment
    fit: Fit
    limits: TimeLimits
    region: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Bodies of the requests by name, in order, as `--dry-run` prints them."""
        one = self.deployment
        bodies = {
            "CreateModel": create_model(one),
            "CreateEndpointConfig": create_endpoint_config(one),
            "CreateEndpoint": create_endpoint(one),
        }
        return bodies | ({"CreateInferenceComponent": create_inference_component(one)} if one.copies else {})


def prepare(request: DeployRequest) -> PreparedDeployment:
    """Deployment of a request, after checking that the artifact is complete and fits instance type and image, and that
    region, bucket and role suit.

    Reads the manifest, names and sizes of the files, the bucket's region and the role; sends no request to SageMaker.

    Raises:
        ArtifactError: the manifest or a file is missing, or a file has another size.
        IncompatibleError: instance type, image, bucket or role cannot serve the artifact.
        StoreError: it cannot be read. UsageError: a value that SageMaker does not accept.
    """
    found = find_artifact(request.artifact)
    session = aws.session(request.region)
    region = check_region(session)
    manifest = found.manifest()
    found.check_files(manifest)
    needs = needs_of(manifest)
    image = request.image or needs.image
    if not image:
        raise UsageError(
            f"`{manifest.name}` is packed for no image", hint="pass `--image` with the name of one that serves it"
        )
    runtime = load(manifest.target).runtime
    environment = {**runtime.endpoint_environment(manifest, image), **request.environment}
    problems = [
        *runtime.endpoint_problems(manifest, image, request.instance_type),
        *runtime.environment_problems(manifest, environment),
    ]
    fit = check_fit(needs, request.instance_type, image, problems)
    limits = time_limits(needs.size, found.prewarm(request.prewarm, manifest))
    copies = copies_of(request.copies, fit, request.count, needs.kind)
    deployment = Deployment(
        name=request.name or endpoint_name(manifest.name),
        content=digest_bytes(found.data),
        prefix=found.prefix,
        image=image_uri(image, region),
        role=request.role,
        instance_type=full_name(request.instance_type),
        count=request.count,
        environment=environment,
        startup_seconds=limits.startup if request.startup_seconds is None else request.startup_seconds,
        download_seconds=limits.download if request.download_seconds is None else request.download_seconds,
        volume_gb=_volume(fit, needs),
        ami=ami_of(request.ami, _cuda(image), fit.instance.accelerator),
        isolated=request.isolated,
        copies=copies,
        resources=resources_of(fit, needs.kind) if copies else None,
    )
    warnings = [*check_bucket(session, found.bucket, region), *check_role(session, request.role)]
    idle = fit.copies - 1 if needs.kind != "cpu" and not copies else 0
    if idle:
        warnings.append(f"{fit.text}; one is deployed: `--copies auto` deploys all as an inference component")
    return PreparedDeployment(deployment, fit, limits, region, tuple(warnings))


def _volume(fit: Fit, needs: Needs) -> int:
    """GB of the storage volume; 0 for an instance with local disks, on which SageMaker puts the model."""
    if fit.instance.nvme:
        return 0
    return min(-(-needs.size // 10**9) + _VOLUME_SLACK, VOLUME_GB)


def _cuda(image: str) -> tuple[int, int] | None:
    """CUDA of an image by its tag (`...-cu125`, as AWS's images have it); None for other images."""
    match = re.search(r"-cu(\d{2})(\d+)(?![\w.])", image)
    return (int(match[1]), int(match[2])) if match else None
