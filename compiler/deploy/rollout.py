"""Creation and update of a SageMaker endpoint.

    CreateModel, CreateEndpointConfig    used as they are if they exist: their names contain a digest
    CreateEndpoint                       or UpdateEndpoint, where one of the name exists with another configuration
    Create/UpdateInferenceComponent      with copies

If a request fails, what was created before is deleted. An update that fails leaves the endpoint as before: SageMaker
rolls it back where the new one does not come up, and this module does where its smoke test fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.deploy import aws
from compiler.deploy.aws import calling
from compiler.deploy.smoke import Smoke, smoke
from compiler.errors import DeployError
from compiler.lmi.components import create_inference_component, update_inference_component
from compiler.lmi.sagemaker import (
    Deployment,
    create_endpoint,
    create_endpoint_config,
    create_model,
    update_endpoint,
)

if TYPE_CHECKING:
    from compiler.deploy.request import PreparedDeployment
    from compiler.report import Report

POLL_SECONDS = 15.0
_SLACK = 900
"""Seconds for the start of an instance, besides download and start of the container."""
_IN_PROGRESS = ("Creating", "Updating", "SystemUpdating", "RollingBack")


@dataclass(frozen=True)
class Deployed:
    """Result of a deployment. `smoke` None: not tested."""

    endpoint: str
    model: str
    copies: int
    smoke: Smoke | None = None

    def to_json(self) -> dict[str, Any]:
        found = {"endpoint": self.endpoint, "model": self.model, "copies": self.copies}
        return found | ({"smoke": self.smoke.to_json()} if self.smoke else {})


@dataclass
class _Rollout:
    """Rollout in progress. `undo`: deletions of what was created, in reverse; `before`: restores what was updated."""

    client: Any
    deployment: Deployment
    report: Report
    poll_seconds: float
    undo: list[Callable[[], object]]
    before: list[Callable[[], object]]


def deploy(
    prepared: PreparedDeployment,
    report: Report,
    *,
    region: str = "",
    wait: bool = True,
    test: bool = False,
    poll_seconds: float = POLL_SECONDS,
) -> Deployed:
    """Create or update the endpoint and, with `wait`, wait until it is in service; with `test`, send it the smoke test.

    Raises:
        DeployError: a request was refused (resources created before are deleted), the endpoint failed or took too long
            (it stays, with its logs), an update was rolled back (the endpoint serves as before), or the smoke test
            failed (an update is rolled back; a new endpoint stays, with its logs).
    """
    session, deployment = aws.session(region), prepared.deployment
    rollout = _Rollout(session.client("sagemaker"), deployment, report, poll_seconds, [], [])
    name = deployment.name
    report.begin("deploy")
    with _undone(rollout):
        _create(rollout)
    if deployment.copies:
        # a component is created only on an endpoint that is in service
        _wait_for(rollout, _ENDPOINT)
        with _undone(rollout):
            _create_component(rollout)
    if not wait:
        report.end(f"{name} is starting")
        return Deployed(name, deployment.model_name, deployment.copies)
    with _restored(rollout, only_components=True):
        seconds = _wait_for(rollout, _COMPONENT if deployment.copies else _ENDPOINT)
    report.end(f"{name} is in service after {seconds:.0f} s")
    tested = None
    if test:
        report.begin("smoke test")
        component = name if deployment.copies else ""
        with _restored(rollout):
            tested = smoke(session.client("sagemaker-runtime"), name, component, prewarmed=prepared.limits.first_token)
        report.end(tested.text)
    return Deployed(name, deployment.model_name, deployment.copies, tested)


def _create(rollout: _Rollout) -> None:
    """Create model, configuration and endpoint, or update the endpoint."""
    client, deployment = rollout.client, rollout.deployment
    model, config = deployment.model_name, deployment.config_name
    if _once("CreateModel", client.create_model, create_model(deployment)):
        rollout.undo.append(lambda: client.delete_model(ModelName=model))
    if _once("CreateEndpointConfig", client.create_endpoint_config, create_endpoint_config(deployment)):
        rollout.undo.append(lambda: client.delete_endpoint_config(EndpointConfigName=config))
    if _once("CreateEndpoint", client.create_endpoint, create_endpoint(deployment)):
        rollout.undo.append(lambda: client.delete_endpoint(EndpointName=deployment.name))
        return
    with calling("DescribeEndpoint"):
        current = client.describe_endpoint(EndpointName=deployment.name)["EndpointConfigName"]
    if current == config:
        return
    with calling("UpdateEndpoint"):
        client.update_endpoint(**update_endpoint(deployment))
    rollout.before.append(
        lambda: client.update_endpoint(EndpointName=deployment.name, EndpointConfigName=current),
    )


def _create_component(rollout: _Rollout) -> None:
    """Create the inference component, or update the one of this name."""
    client, deployment = rollout.client, rollout.deployment
    if _once("CreateInferenceComponent", client.create_inference_component, create_inference_component(deployment)):
        return
    with calling("DescribeInferenceComponent"):
        found = client.describe_inference_component(InferenceComponentName=deployment.name)
    with calling("UpdateInferenceComponent"):
        client.update_inference_component(**update_inference_component(deployment))
    keep = ("ModelName", "StartupParameters", "ComputeResourceRequirements")
    previous = {key: value for key, value in found["Specification"].items() if key in keep}
    copies = found.get("RuntimeConfig", {}).get("DesiredCopyCount", 1)
    rollout.before.append(
        lambda: client.update_inference_component(
            InferenceComponentName=deployment.name, Specification=previous, RuntimeConfig={"CopyCount": copies}
        )
    )


@contextmanager
def _undone(rollout: _Rollout) -> Iterator[None]:
    """Context of requests: if one fails, what was created is deleted. A deletion that fails is a warning, so that it
    does not hide the first error.
    """
    try:
        yield
    except BaseException:
        for step in reversed(rollout.undo):
            try:
                with calling("the deletion of what was created"):
                    step()
            except DeployError as left:
                rollout.report.warn(f"{left.message}; `{rollout.deployment.model_name}` was not deleted")
        raise


@contextmanager
def _restored(rollout: _Rollout, *, only_components: bool = False) -> Iterator[None]:
    """Context of a check of what was deployed: if it fails, an update is rolled back; a new endpoint stays.
    `only_components`: SageMaker itself rolls back an endpoint without components.
    """
    name = rollout.deployment.name
    try:
        yield
    except DeployError as error:
        if only_components and not rollout.deployment.copies:
            raise
        if not rollout.before:
            stays = f"the endpoint stays; `lmi-compile undeploy {name}` deletes it"
            raise DeployError(error.message, hint=f"{stays}. {error.hint}") from error
        for restore in reversed(rollout.before):
            with calling("the rollback"):
                restore()
        try:
            _wait(rollout, _COMPONENT if rollout.deployment.copies else _ENDPOINT)
        except DeployError as again:
            rollout.report.warn(f"after the rollback: {again.message}")
        raise DeployError(error.message, hint=f"it was rolled back and serves as before. {error.hint}") from error


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


@dataclass(frozen=True)
class _Kind:
    """Kind of resource that is waited for. `operation`: of boto3, called with `name`; `status`, `serves`: keys of its
    answer, the second one a path to the name of the configuration or the model.
    """

    text: str
    operation: str
    name: str
    status: str
    serves: tuple[str, ...]


_ENDPOINT = _Kind("endpoint", "describe_endpoint", "EndpointName", "EndpointStatus", ("EndpointConfigName",))
_COMPONENT = _Kind(
    "inference component",
    "describe_inference_component",
    "InferenceComponentName",
    "InferenceComponentStatus",
    ("Specification", "ModelName"),
)


def _wait_for(rollout: _Rollout, kind: _Kind) -> float:
    """Seconds until a resource is in service with what was deployed. Raises DeployError."""
    found, seconds = _wait(rollout, kind)
    deployment = rollout.deployment
    expected = deployment.model_name if kind is _COMPONENT else deployment.config_name
    serves: Any = found
    for key in kind.serves:
        serves = serves.get(key, {})
    if serves and serves != expected:
        reason = found.get("FailureReason", "no reason given")
        raise DeployError(
            f"{kind.text} {deployment.name} was rolled back to {serves}: {reason}",
            hint=f"it serves as before; {_logs(deployment.name)}",
        )
    return seconds


def _wait(rollout: _Rollout, kind: _Kind) -> tuple[Mapping[str, Any], float]:
    """Description of a resource in service, and seconds until then. Raises DeployError."""
    began, deployment = time.monotonic(), rollout.deployment
    most, name = deployment.download_seconds + deployment.startup_seconds + _SLACK, deployment.name
    while True:
        with calling(kind.operation):
            found: Mapping[str, Any] = getattr(rollout.client, kind.operation)(**{kind.name: name})
        status, seconds = found[kind.status], time.monotonic() - began
        if status == "InService":
            return found, seconds
        if status not in _IN_PROGRESS:
            reason = found.get("FailureReason", "no reason given")
            raise DeployError(f"{kind.text} {name} is {status}: {reason}", hint=_logs(name))
        if seconds > most:
            raise DeployError(
                f"{kind.text} {name} is still {status} after {seconds:.0f} s", hint=f"it keeps starting; {_logs(name)}"
            )
        rollout.report.progress(int(seconds), most, "s")
        time.sleep(rollout.poll_seconds)


def _logs(name: str) -> str:
    return f"CloudWatch logs: /aws/sagemaker/Endpoints/{name}"
