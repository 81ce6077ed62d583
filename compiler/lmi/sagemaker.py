"""Bodies of the SageMaker requests that make an endpoint of an artifact, with SageMaker's limits.

    CreateModel            image, environment, the artifact's prefix, mounted uncompressed at /opt/ml/model
    CreateEndpointConfig   instance type and count, time limits of download and start-up
    CreateEndpoint         name of the endpoint, name of its configuration

With copies there is a fourth, see components.py.

The artifact is a prefix that ends in `/`, with `S3DataType` S3Prefix and `CompressionType` None: nothing is unpacked,
and the container needs no network. Sources: data/sagemaker/2017-07-24/service-2.json of botocore 1.44.5 for names and
limits; SageMaker AI's page on deploying uncompressed models for the meaning of the prefix. Nothing was deployed so far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from compiler.errors import UsageError
from compiler.storage.files.digest import Digest, digest_json

SECONDS = (60, 3600)
"""Minimum and maximum of both time limits."""
_ENTRIES, _LENGTH = 100, 1024
VARIANT = "AllTraffic"
ROLE = r"arn:aws[a-z\-]*:iam::(\d{12}):role/?([a-zA-Z_0-9+=,.@\-_/]+)"
"""ARN of a role: account, and path with name."""

_ELSEWHERE = ("HF_MODEL_ID", "OPTION_MODEL_ID", "SERVING_LOAD_MODELS")
"""Variables that make the front end load another model than the mounted one (ModelStore.java, ModelInfo.java)."""


@dataclass(frozen=True)
class CopyResources:
    """Share of an instance that one copy of a model gets. `devices`: GPUs; `cores`: vCPUs; None: not requested.
    `memory_mb`: MiB of the instance's memory.
    """

    devices: int | None
    cores: int | None
    memory_mb: int


@dataclass(frozen=True)
class Deployment:
    """Endpoint of one artifact on one instance type.

    `name`: the endpoint's. `content`: digest of the artifact's manifest. `prefix`: `s3://bucket/prefix/`. `image`: full
    name. `role`: ARN. `startup_seconds`: time limit until /ping answers, loading included (nothing is compiled);
    `download_seconds`: time limit of the prefix's download. `volume_gb`: storage volume of each instance, 0 for one
    with local disks. `ami`: AMI version of the instance, where the image's CUDA needs a newer driver than the
    default's; "" is SageMaker's default. `isolated`: the container has no network.

    `copies`: of the model on all instances, as an inference component (components.py), each with `resources`; 0: the
    model has every instance to itself.

    Raises:
        UsageError: a field is outside SageMaker's limits.
    """

    name: str
    content: Digest
    prefix: str
    image: str
    role: str
    instance_type: str
    count: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    startup_seconds: int = 1800
    download_seconds: int = 3600
    volume_gb: int = 0
    ami: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    isolated: bool = True
    copies: int = 0
    resources: CopyResources | None = None

    def __post_init__(self) -> None:
        low, high = SECONDS
        env = self.environment
        rules = {
            "the endpoint's name is letters, digits and single `-`": _is_name(self.name),
            f"model and configuration are named `{self.model_name}`: at most 63 characters": len(self.model_name) <= 63,
            "an artifact is `s3://bucket/prefix/`": re.fullmatch(r"s3://[^/]+/(?:[^/]+/)+", self.prefix) is not None,
            "a role is an ARN such as arn:aws:iam::123456789012:role/name": re.fullmatch(ROLE, self.role) is not None,
            f"the start-up takes {low} to {high} seconds": low <= self.startup_seconds <= high,
            f"the download takes {low} to {high} seconds": low <= self.download_seconds <= high,
            "there is at least one instance": self.count >= 1,
            f"an environment has at most {_ENTRIES} variables": len(env) <= _ENTRIES,
            f"a variable is at most {_LENGTH} characters": all(len(t) <= _LENGTH for kv in env.items() for t in kv),
            f"{', '.join(_ELSEWHERE)} name another model than the artifact": not set(_ELSEWHERE) & set(env),
            "a copy has resources of its own": (self.copies > 0) == (self.resources is not None),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            lines = ["this deployment violates SageMaker's rules:", *(f"  {rule}" for rule in broken)]
            raise UsageError("\n".join(lines), hint="change the options of `deploy`")

    @property
    def model_name(self) -> str:
        """Name of the model: the endpoint's name and a digest of all fields. Equal names have equal contents, so one
        that exists already can be used.
        """
        return f"{self.name}-{digest_json(asdict(self))[7:15]}"

    @property
    def config_name(self) -> str:
        """Name of the configuration: the model's; with copies, a digest of the fields of the instances alone, so that
        another model, or another number of copies, leaves the endpoint as it is.
        """
        if not self.copies:
            return self.model_name
        fields = (self.role, self.instance_type, self.count, self.volume_gb, self.ami, self.isolated, dict(self.tags))
        return f"{self.name}-{digest_json(fields)[7:15]}"


def create_model(deployment: Deployment) -> dict[str, Any]:
    """Arguments of CreateModel."""
    source = {"S3Uri": deployment.prefix, "S3DataType": "S3Prefix", "CompressionType": "None"}
    return {
        "ModelName": deployment.model_name,
        "ExecutionRoleArn": deployment.role,
        "EnableNetworkIsolation": deployment.isolated,
        "PrimaryContainer": {
            "Image": deployment.image,
            "Environment": dict(sorted(deployment.environment.items())),
            "ModelDataSource": {"S3DataSource": source},
        },
        **tags_of(deployment),
    }


def create_endpoint_config(deployment: Deployment) -> dict[str, Any]:
    """Arguments of CreateEndpointConfig. With copies it has no model: components are created on it."""
    variant: dict[str, Any] = {
        "VariantName": VARIANT,
        "InstanceType": deployment.instance_type,
        "InitialInstanceCount": deployment.count,
    }
    if deployment.volume_gb:
        variant["VolumeSizeInGB"] = deployment.volume_gb
    if deployment.ami:
        variant["InferenceAmiVersion"] = deployment.ami
    shared: dict[str, Any] = {}
    if deployment.copies:
        variant["RoutingConfig"] = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
        shared = {"ExecutionRoleArn": deployment.role, "EnableNetworkIsolation": deployment.isolated}
    else:
        variant |= {"ModelName": deployment.model_name, **startup_parameters(deployment)}
    return {
        "EndpointConfigName": deployment.config_name,
        "ProductionVariants": [variant],
        **shared,
        **tags_of(deployment),
    }


def startup_parameters(deployment: Deployment) -> dict[str, int]:
    """Time limits, under the names that variants and components have in common."""
    return {
        "ContainerStartupHealthCheckTimeoutInSeconds": deployment.startup_seconds,
        "ModelDataDownloadTimeoutInSeconds": deployment.download_seconds,
    }


def create_endpoint(deployment: Deployment) -> dict[str, Any]:
    """Arguments of CreateEndpoint."""
    return {
        "EndpointName": deployment.name,
        "EndpointConfigName": deployment.config_name,
        **tags_of(deployment),
    }


def update_endpoint(deployment: Deployment) -> dict[str, Any]:
    """Arguments of UpdateEndpoint: the new configuration, with its own number of instances."""
    return {"EndpointName": deployment.name, "EndpointConfigName": deployment.config_name}


def is_made_for(name: str, endpoint: str) -> bool:
    """Whether `name` is a `Deployment.model_name` of an endpoint."""
    return re.fullmatch(re.escape(endpoint) + "-[0-9a-f]{8}", name) is not None


def endpoint_name(text: str) -> str:
    """Name that SageMaker allows, from any text: at most 50 characters, so that `model_name` can append a digest."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-")[:50].strip("-") or "model"


def tags_of(deployment: Deployment) -> dict[str, Any]:
    """Tags of a resource, as a member of its request; {} without any."""
    tags = [{"Key": key, "Value": value} for key, value in sorted(deployment.tags.items())]
    return {"Tags": tags} if tags else {}


def _is_name(text: str) -> bool:
    return len(text) <= 63 and re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", text) is not None
