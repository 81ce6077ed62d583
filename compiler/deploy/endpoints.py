"""Endpoints that `deploy` made: their state with that of their components, and their deletion."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from compiler.deploy import aws
from compiler.deploy.aws import calling
from compiler.errors import DeployError
from compiler.lmi.sagemaker import is_made_for

if TYPE_CHECKING:
    from compiler.report import Report

POLL_SECONDS = 5.0
_DELETION_SECONDS = 900


@dataclass(frozen=True)
class EndpointState:
    """State of an endpoint, as SageMaker reports it. `model`: of its configuration or its first component, with image
    and artifact. `components`: (name, status, copies in service, copies requested) of each inference component.
    """

    name: str
    status: str
    reason: str
    configuration: str
    instance_type: str
    instances: int
    model: str
    image: str
    artifact: str
    components: tuple[tuple[str, str, int, int], ...] = ()

    @property
    def serves(self) -> bool:
        """Whether endpoint and components are in service, with all their copies."""
        return self.status == "InService" and all(
            status == "InService" and running >= wanted for _, status, running, wanted in self.components
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def endpoint_state(name: str, region: str = "") -> EndpointState:
    """State of an endpoint. Raises DeployError, also where there is none of that name."""
    client = aws.session(region).client("sagemaker")
    with calling("DescribeEndpoint"):
        found = client.describe_endpoint(EndpointName=name)
    with calling("DescribeEndpointConfig"):
        config = client.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
    (variant, *_) = config["ProductionVariants"]
    model, components = variant.get("ModelName", ""), []
    for one in [] if model else _components(client, name):
        with calling("DescribeInferenceComponent"):
            described = client.describe_inference_component(InferenceComponentName=one)
        copies = described.get("RuntimeConfig", {})
        model = model or described.get("Specification", {}).get("ModelName", "")
        wanted = copies.get("DesiredCopyCount", 0)
        components.append((one, described["InferenceComponentStatus"], copies.get("CurrentCopyCount", 0), wanted))
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
        components=tuple(components),
    )


def _components(client: Any, endpoint: str) -> list[str]:
    """Names of the inference components of an endpoint."""
    with calling("ListInferenceComponents"):
        pages = client.get_paginator("list_inference_components").paginate(EndpointNameEquals=endpoint)
        return [one["InferenceComponentName"] for page in pages for one in page["InferenceComponents"]]


def _component_names(client: Any, endpoint: str) -> list[str]:
    """Names of the inference components of an endpoint that exists; none if its configuration has a model."""
    with calling("DescribeEndpoint"):
        config = client.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    with calling("DescribeEndpointConfig"):
        variants = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    return [] if all(variant.get("ModelName") for variant in variants) else _components(client, endpoint)


def resources(name: str, region: str = "") -> list[tuple[str, str]]:
    """(kind, name) of the resources that `deploy` made for an endpoint, in the order of their deletion.

    Configurations and models of earlier deployments of the name are among them; the endpoint only if it exists.
    """
    client = aws.session(region).client("sagemaker")
    found: list[tuple[str, str]] = []
    with calling("ListEndpoints"):
        pages = client.get_paginator("list_endpoints").paginate(NameContains=name)
        found += [
            ("endpoint", one["EndpointName"])
            for page in pages
            for one in page["Endpoints"]
            if one["EndpointName"] == name
        ]
    if found:
        found = [*(("component", one) for one in _component_names(client, name)), *found]
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
    """Delete the endpoint with its components, its configurations and its models; what was deleted. The artifact in S3
    stays.

    Raises:
        DeployError: there is nothing of that name, or a request was refused; repeat it to delete the rest.
    """
    client = aws.session(region).client("sagemaker")
    found = resources(name, region)
    if not found:
        raise DeployError(f"there is no endpoint `{name}`, configuration or model of it", hint="check `--region`")
    report.begin("undeploy")
    for kind, one in found:
        match kind:
            case "component":
                with calling("DeleteInferenceComponent"):
                    client.delete_inference_component(InferenceComponentName=one)
                _wait_gone(
                    "DescribeInferenceComponent",
                    partial(client.describe_inference_component, InferenceComponentName=one),
                    one,
                    poll_seconds,
                )
            case "endpoint":
                with calling("DeleteEndpoint"):
                    client.delete_endpoint(EndpointName=one)
                _wait_gone("DescribeEndpoint", partial(client.describe_endpoint, EndpointName=one), one, poll_seconds)
            case "configuration":
                with calling("DeleteEndpointConfig"):
                    client.delete_endpoint_config(EndpointConfigName=one)
            case _:
                with calling("DeleteModel"):
                    client.delete_model(ModelName=one)
    report.end(f"{len(found)} resources of {name} deleted")
    return found


def _wait_gone(request: str, describe: Callable[[], object], name: str, poll_seconds: float) -> None:
    """Wait until a resource is gone: what it uses cannot be deleted until then."""
    deadline = time.monotonic() + _DELETION_SECONDS
    while time.monotonic() < deadline:
        try:
            with calling(request):
                describe()
        except DeployError as error:
            if "Could not find" in error.message or "does not exist" in error.message:
                return
            raise
        time.sleep(poll_seconds)
    raise DeployError(f"{name} is still being deleted", hint="run `lmi-compile undeploy` again later")
