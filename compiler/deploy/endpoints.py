"""Endpoints that `deploy` made: their state, and their end."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compiler.deploy.aws import calling, session
from compiler.errors import DeployError
from compiler.lmi.sagemaker import is_made_for

if TYPE_CHECKING:
    from compiler.report import Report

POLL_SECONDS = 5.0
_DELETION_SECONDS = 900


@dataclass(frozen=True)
class EndpointState:
    """State of an endpoint, as SageMaker reports it. `model`: of its configuration, with image and artifact."""

    name: str
    status: str
    reason: str
    configuration: str
    instance_type: str
    instances: int
    model: str
    image: str
    artifact: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def endpoint_state(name: str, region: str = "") -> EndpointState:
    """State of an endpoint. Raises DeployError, also where there is none of that name."""
    client = session(region).client("sagemaker")
    with calling("DescribeEndpoint"):
        found = client.describe_endpoint(EndpointName=name)
    with calling("DescribeEndpointConfig"):
        config = client.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
    (variant, *_) = config["ProductionVariants"]
    model = variant.get("ModelName", "")
    container: dict[str, Any] = {}
    if model:
        with calling("DescribeModel"):
            container = client.describe_model(ModelName=model).get("PrimaryContainer", {})
    running = sum(one.get("CurrentInstanceCount", 0) for one in found.get("ProductionVariants", ()))
    return EndpointState(
        name=name,
        status=found["EndpointStatus"],
        reason=found.get("FailureReason", ""),
        configuration=found["EndpointConfigName"],
        instance_type=variant.get("InstanceType", ""),
        instances=running or variant.get("InitialInstanceCount", 0),
        model=model,
        image=container.get("Image", ""),
        artifact=container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri", ""),
    )


def resources(name: str, region: str = "") -> list[tuple[str, str]]:
    """(kind, name) of the resources that `deploy` made for an endpoint, in the order of their deletion.

    Configurations and models of earlier deployments of the name are among them; the endpoint only if it exists.
    """
    client = session(region).client("sagemaker")
    found: list[tuple[str, str]] = []
    with calling("ListEndpoints"):
        pages = client.get_paginator("list_endpoints").paginate(NameContains=name)
        found += [
            ("endpoint", one["EndpointName"])
            for page in pages
            for one in page["Endpoints"]
            if one["EndpointName"] == name
        ]
    with calling("ListEndpointConfigs"):
        pages = client.get_paginator("list_endpoint_configs").paginate(NameContains=name)
        names = [one["EndpointConfigName"] for page in pages for one in page["EndpointConfigs"]]
        found += [("configuration", one) for one in names if is_made_for(one, name)]
    with calling("ListModels"):
        pages = client.get_paginator("list_models").paginate(NameContains=name)
        names = [one["ModelName"] for page in pages for one in page["Models"]]
        found += [("model", one) for one in names if is_made_for(one, name)]
    return found


def undeploy(name: str, report: Report, region: str = "", poll_seconds: float = POLL_SECONDS) -> list[tuple[str, str]]:
    """Delete the endpoint, its configurations and its models; what was deleted. The artifact in S3 stays.

    Raises:
        DeployError: there is nothing of that name, or a request was refused; repeat it to delete the rest.
    """
    client = session(region).client("sagemaker")
    found = resources(name, region)
    if not found:
        raise DeployError(f"there is no endpoint `{name}`, configuration or model of it", hint="check `--region`")
    report.begin("undeploy")
    for kind, one in found:
        match kind:
            case "endpoint":
                with calling("DeleteEndpoint"):
                    client.delete_endpoint(EndpointName=one)
                _wait_gone(client, one, poll_seconds)
            case "configuration":
                with calling("DeleteEndpointConfig"):
                    client.delete_endpoint_config(EndpointConfigName=one)
            case _:
                with calling("DeleteModel"):
                    client.delete_model(ModelName=one)
    report.end(f"{len(found)} resources of {name} deleted")
    return found


def _wait_gone(client: Any, name: str, poll_seconds: float) -> None:
    """Wait until an endpoint is gone: its configuration is in use until then."""
    deadline = time.monotonic() + _DELETION_SECONDS
    while time.monotonic() < deadline:
        try:
            with calling("DescribeEndpoint"):
                client.describe_endpoint(EndpointName=name)
        except DeployError as error:
            if "Could not find" in error.message:
                return
            raise
        time.sleep(poll_seconds)
    raise DeployError(f"endpoint {name} is still being deleted", hint="run `lmi-compile undeploy` again later")
