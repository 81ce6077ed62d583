"""Several copies of a model on an endpoint: requests and their order against botocore's model of the service."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from botocore.stub import Stubber

from benchmarks.testbed.artifacts import CONTENT
from compiler.artifact.manifest import ArtifactFile
from compiler.deploy.endpoints import endpoint_state, resources, undeploy
from compiler.deploy.request import DeployRequest, PreparedDeployment, prepare
from compiler.deploy.rollout import deploy
from compiler.errors import DeployError, UsageError
from compiler.lmi.components import create_inference_component
from compiler.lmi.sagemaker import create_endpoint_config
from compiler.report import Silent
from compiler.storage.files.digest import digest_bytes
from tests.deploy.deployments import (
    NOW,
    PREFIX,
    ROLE,
    component_status,
    created,
    endpoint_status,
    engines,
    exists,
)

REQUEST = DeployRequest(PREFIX, "ml.p4d.24xlarge", ROLE, copies="auto")


@pytest.fixture(autouse=True)
def tp_4(bucket: Any) -> None:
    """Engines of four A100 at PREFIX."""
    made = engines(tp=4, capability="8.0")
    ranks = tuple(f"weights/rank{rank}.safetensors" for rank in range(4))
    more = dict.fromkeys(ranks[2:], b"more")
    for name, data in more.items():
        bucket.put_object(Key=f"tiny/v1/{name}", Body=data)
    whole = CONTENT | more
    files = tuple(
        ArtifactFile(path=path, media_type="application/octet-stream", digest=digest_bytes(data), size=len(data))
        for path, data in whole.items()
    )
    section = made.section.model_copy(update={"files": ranks})
    bucket.put_object(
        Key="tiny/v1/manifest.json", Body=made.model_copy(update={"files": files, "section": section}).to_bytes()
    )


def _queue_creation(stubber: Stubber, prepared: PreparedDeployment) -> None:
    one = prepared.deployment
    created(stubber, "create_model")
    created(stubber, "create_endpoint_config", create_endpoint_config(one))
    created(stubber, "create_endpoint")
    endpoint_status(stubber, "Creating", one.config_name)
    endpoint_status(stubber, "InService", one.config_name)


def test_tp_4_on_eight_gpus_is_two_copies(stubbed: Stubber) -> None:
    prepared = prepare(REQUEST)
    one = prepared.deployment
    assert (prepared.fit.copies, one.copies, prepared.warnings) == (2, 2, ())
    (variant,) = create_endpoint_config(one)["ProductionVariants"]
    assert "ModelName" not in variant
    body = create_inference_component(one)
    assert body["RuntimeConfig"] == {"CopyCount": 2}
    assert body["Specification"]["ComputeResourceRequirements"]["NumberOfAcceleratorDevicesRequired"] == 4
    _queue_creation(stubbed, prepared)
    created(stubbed, "create_inference_component", body)
    for status in ("Creating", "InService"):
        component_status(stubbed, status, one.model_name)
    assert deploy(prepared, Silent(), poll_seconds=0).copies == 2


def test_two_instances_have_room_for_four_copies_and_not_for_five() -> None:
    assert prepare(replace(REQUEST, count=2)).deployment.copies == 4
    with pytest.raises(UsageError, match=r"`--copies 5`: 2 x ml\.p4d\.24xlarge have room for 4"):
        prepare(replace(REQUEST, count=2, copies="5"))


def test_another_model_updates_the_component_and_leaves_the_endpoint(stubbed: Stubber) -> None:
    prepared = prepare(replace(REQUEST, environment={"A": "b"}))
    one = prepared.deployment
    assert one.config_name == prepare(REQUEST).deployment.config_name
    created(stubbed, "create_model")
    exists(stubbed, "create_endpoint_config")
    exists(stubbed, "create_endpoint")
    for _ in range(2):
        endpoint_status(stubbed, "InService", one.config_name)
    exists(stubbed, "create_inference_component")
    component_status(stubbed, "InService", "tiny-00000000")
    created(stubbed, "update_inference_component")
    for status in ("Updating", "InService"):
        component_status(stubbed, status, one.model_name)
    assert deploy(prepared, Silent(), poll_seconds=0).model == one.model_name


def test_an_update_that_fails_is_restored(stubbed: Stubber) -> None:
    prepared = prepare(REQUEST)
    one = prepared.deployment
    exists(stubbed, "create_model")
    exists(stubbed, "create_endpoint_config")
    exists(stubbed, "create_endpoint")
    for _ in range(2):
        endpoint_status(stubbed, "InService", one.config_name)
    exists(stubbed, "create_inference_component")
    component_status(stubbed, "InService", "tiny-00000000", copies=(1, 1))
    created(stubbed, "update_inference_component")
    component_status(stubbed, "Failed", one.model_name, FailureReason="out of memory")
    requirements = {"NumberOfAcceleratorDevicesRequired": 4, "MinMemoryRequiredInMb": 1024}
    created(
        stubbed,
        "update_inference_component",
        {
            "InferenceComponentName": "tiny",
            "Specification": {"ModelName": "tiny-00000000", "ComputeResourceRequirements": requirements},
            "RuntimeConfig": {"CopyCount": 1},
        },
    )
    component_status(stubbed, "InService", "tiny-00000000", copies=(1, 1))
    with pytest.raises(DeployError, match="inference component tiny is Failed: out of memory") as caught:
        deploy(prepared, Silent(), poll_seconds=0)
    assert "was rolled back" in caught.value.hint


def test_a_refused_component_deletes_the_endpoint_that_was_made_for_it(stubbed: Stubber) -> None:
    prepared = prepare(REQUEST)
    _queue_creation(stubbed, prepared)
    stubbed.add_client_error("create_inference_component", "ValidationException", "not enough memory")
    stubbed.add_response("delete_endpoint", {}, {"EndpointName": "tiny"})
    stubbed.add_response("delete_endpoint_config", {})
    stubbed.add_response("delete_model", {})
    with pytest.raises(DeployError, match="refuses CreateInferenceComponent"):
        deploy(prepared, Silent(), poll_seconds=0)


def _describe_config(stubber: Stubber, name: str) -> None:
    answer = {
        "EndpointConfigName": name,
        "EndpointConfigArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/x",
        "ProductionVariants": [{"VariantName": "AllTraffic", "InstanceType": "ml.p4d.24xlarge"}],
        "CreationTime": NOW,
    }
    stubber.add_response("describe_endpoint_config", answer, {"EndpointConfigName": name})


def _list_components(stubber: Stubber) -> None:
    one = {
        "CreationTime": NOW,
        "InferenceComponentArn": "arn:aws:sagemaker:us-east-1:123456789012:inference-component/tiny",
        "InferenceComponentName": "tiny",
        "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/tiny",
        "EndpointName": "tiny",
        "VariantName": "AllTraffic",
        "LastModifiedTime": NOW,
    }
    stubber.add_response("list_inference_components", {"InferenceComponents": [one]}, {"EndpointNameEquals": "tiny"})


@pytest.mark.parametrize(("copies", "serves"), [((2, 2), True), ((1, 2), False)])
def test_the_status_has_the_components(stubbed: Stubber, copies: tuple[int, int], serves: bool) -> None:
    endpoint_status(stubbed, "InService", "tiny-11111111")
    _describe_config(stubbed, "tiny-11111111")
    _list_components(stubbed)
    component_status(stubbed, "InService", "tiny-22222222", copies)
    model = {"ModelName": "tiny-22222222", "ModelArn": "arn:aws:sagemaker:us-east-1:123456789012:model/x"}
    stubbed.add_response(
        "describe_model",
        model | {"CreationTime": NOW, "PrimaryContainer": {"Image": "mine:1"}},
        {"ModelName": "tiny-22222222"},
    )
    state = endpoint_state("tiny")
    assert (state.model, state.image, state.serves) == ("tiny-22222222", "mine:1", serves)
    assert state.components == (("tiny", "InService", *copies),)
    assert json.loads(json.dumps(state.to_json()))["components"] == [["tiny", "InService", *copies]]


def _queue_resources(stubber: Stubber) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/tiny"
    endpoint = {"EndpointName": "tiny", "EndpointArn": arn, "CreationTime": NOW, "LastModifiedTime": NOW}
    stubber.add_response("list_endpoints", {"Endpoints": [endpoint | {"EndpointStatus": "InService"}]})
    endpoint_status(stubber, "InService", "tiny-11111111")
    _describe_config(stubber, "tiny-11111111")
    _list_components(stubber)
    config = {"EndpointConfigName": "tiny-11111111", "EndpointConfigArn": arn, "CreationTime": NOW}
    stubber.add_response("list_endpoint_configs", {"EndpointConfigs": [config]})
    model = {"ModelName": "tiny-22222222", "ModelArn": arn, "CreationTime": NOW}
    stubber.add_response("list_models", {"Models": [model]})


def test_components_are_deleted_before_their_endpoint(stubbed: Stubber) -> None:
    _queue_resources(stubbed)
    made = [
        ("component", "tiny"), ("endpoint", "tiny"), ("configuration", "tiny-11111111"), ("model", "tiny-22222222")
    ]  # fmt: skip
    assert resources("tiny") == made
    _queue_resources(stubbed)
    stubbed.add_response("delete_inference_component", {}, {"InferenceComponentName": "tiny"})
    component_status(stubbed, "Deleting", "tiny-22222222")
    gone = "Could not find"
    stubbed.add_client_error("describe_inference_component", "ValidationException", f"{gone} inference component")
    stubbed.add_response("delete_endpoint", {}, {"EndpointName": "tiny"})
    stubbed.add_client_error("describe_endpoint", "ValidationException", f"{gone} endpoint")
    stubbed.add_response("delete_endpoint_config", {}, {"EndpointConfigName": "tiny-11111111"})
    stubbed.add_response("delete_model", {}, {"ModelName": "tiny-22222222"})
    assert undeploy("tiny", Silent(), poll_seconds=0) == made
