"""Creation, update and deletion of endpoints, through the real boto3: moto for state, botocore's Stubber for order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from compiler.cli import main
from compiler.deploy.endpoints import endpoint_state, resources, undeploy
from compiler.deploy.request import prepare
from compiler.deploy.rollout import Deployed, deploy
from compiler.errors import DeployError
from compiler.report import Silent
from tests.deploy.deployments import IMAGE, PREFIX, REQUEST, ROLE, created, endpoint_status, exists

pytestmark = pytest.mark.usefixtures("bucket")


def _deploy(**options: Any) -> Deployed:
    return deploy(prepare(REQUEST), Silent(), poll_seconds=0, **options)


def _name() -> str:
    return prepare(REQUEST).deployment.model_name


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lmi-compile", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_an_endpoint_comes_to_life() -> None:
    done = _deploy()
    assert (done.endpoint, done.model, done.copies, done.smoke) == ("tiny", _name(), 0, None)
    client = boto3.client("sagemaker")
    assert client.describe_endpoint(EndpointName="tiny")["EndpointStatus"] == "InService"
    model = client.describe_model(ModelName=done.model)
    assert model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"] == PREFIX
    undeploy("tiny", Silent(), poll_seconds=0)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["deploy", PREFIX, "--instance-type", "ml.m5.xlarge", "--role", ROLE, "--image", IMAGE, "--name", "mine"]
    assert _run(monkeypatch, *asked, "--dry-run", "--env", "A=b=c") == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["CreateEndpoint", "CreateEndpointConfig", "CreateModel"]
    assert printed["CreateModel"]["PrimaryContainer"]["Environment"] == {"A": "b=c"}
    assert _run(monkeypatch, *asked, "--emit", "terraform", "--output", str(tmp_path / "main.tf.json")) == 0
    assert "aws_sagemaker_endpoint" in json.loads((tmp_path / "main.tf.json").read_text())["resource"]
    assert _run(monkeypatch, *asked, "--emit", "cloudformation") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["Resources"]["Endpoint"]
    with pytest.raises(boto3.client("sagemaker").exceptions.ClientError):
        boto3.client("sagemaker").describe_endpoint(EndpointName="mine")
    assert _run(monkeypatch, *asked, "--json", "--no-smoke") == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == "mine"
    assert _run(monkeypatch, *asked, "--env", "A") == 2
    assert _run(monkeypatch, *asked, "--emit", "pulumi") == 2
    assert _run(monkeypatch, *asked, "--output", str(tmp_path / "x")) == 2
    assert _run(monkeypatch, *asked, "--emit", "terraform", "--output", str(tmp_path / "no/x")) == 2
    undeploy("mine", Silent(), poll_seconds=0)


def test_the_wait_goes_on_until_it_serves(stubbed: Stubber) -> None:
    for operation in ("create_model", "create_endpoint_config", "create_endpoint"):
        created(stubbed, operation)
    for status in ("Creating", "Creating", "InService"):
        endpoint_status(stubbed, status, _name())
    assert _deploy().endpoint == "tiny"


def test_without_waiting(stubbed: Stubber) -> None:
    for operation in ("create_model", "create_endpoint_config", "create_endpoint"):
        created(stubbed, operation)
    assert _deploy(wait=False).endpoint == "tiny"


def test_an_endpoint_that_fails_says_why_and_stays(stubbed: Stubber) -> None:
    for operation in ("create_model", "create_endpoint_config", "create_endpoint"):
        created(stubbed, operation)
    endpoint_status(stubbed, "Failed", FailureReason="the container did not pass the ping health check")
    with pytest.raises(DeployError, match="is Failed: the container did not pass") as caught:
        _deploy()
    assert "/aws/sagemaker/Endpoints/tiny" in caught.value.hint


def test_resources_created_before_a_refused_request_are_deleted(stubbed: Stubber) -> None:
    created(stubbed, "create_model")
    created(stubbed, "create_endpoint_config")
    stubbed.add_client_error("create_endpoint", "ResourceLimitExceeded", "0 instances of ml.m5.xlarge")
    stubbed.add_response("delete_endpoint_config", {}, {"EndpointConfigName": _name()})
    stubbed.add_response("delete_model", {}, {"ModelName": _name()})
    with pytest.raises(DeployError, match="refuses CreateEndpoint: ResourceLimitExceeded") as caught:
        _deploy()
    assert "quota" in caught.value.hint


def test_a_failed_deletion_is_a_warning_and_does_not_hide_the_refusal(stubbed: Stubber) -> None:
    warnings: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    created(stubbed, "create_model")
    created(stubbed, "create_endpoint_config")
    stubbed.add_client_error("create_endpoint", "ResourceLimitExceeded", "none left")
    stubbed.add_client_error("delete_endpoint_config", "AccessDeniedException", "not you")
    stubbed.add_response("delete_model", {})
    with pytest.raises(DeployError, match="none left"):
        deploy(prepare(REQUEST), Told(), poll_seconds=0)
    assert [("not you" in text, "was not deleted" in text) for text in warnings] == [(True, True)]


def test_existing_resources_are_used_and_not_deleted(stubbed: Stubber) -> None:
    rest = {"ExecutionRoleArn": ROLE, "PrimaryContainer": ANY, "EnableNetworkIsolation": True}
    there = "Cannot create already existing model"
    stubbed.add_client_error("create_model", "ValidationException", there, expected_params={"ModelName": ANY, **rest})
    exists(stubbed, "create_endpoint_config")
    stubbed.add_client_error("create_endpoint", "AccessDeniedException", "no")
    with pytest.raises(DeployError, match="AccessDeniedException") as caught:
        _deploy()
    assert "iam:PassRole" in caught.value.hint


def queue_update(stubber: Stubber, before: str = "tiny-00000000") -> None:
    """Queue the answers to an update of an endpoint whose configuration is `before`."""
    created(stubber, "create_model")
    created(stubber, "create_endpoint_config")
    exists(stubber, "create_endpoint")
    endpoint_status(stubber, "InService", before)
    created(stubber, "update_endpoint", {"EndpointName": "tiny", "EndpointConfigName": _name()})


def test_an_endpoint_that_exists_gets_the_new_configuration(stubbed: Stubber) -> None:
    queue_update(stubbed)
    for state in ("Updating", "InService"):
        endpoint_status(stubbed, state, _name())
    assert _deploy().endpoint == "tiny"


def test_an_endpoint_that_has_the_configuration_is_left_alone(stubbed: Stubber) -> None:
    for operation in ("create_model", "create_endpoint_config", "create_endpoint"):
        exists(stubbed, operation)
    for _ in range(2):
        endpoint_status(stubbed, "InService", _name())
    assert _deploy().endpoint == "tiny"


def test_an_update_that_is_rolled_back_is_a_failure(stubbed: Stubber) -> None:
    queue_update(stubbed)
    for state in ("Updating", "RollingBack"):
        endpoint_status(stubbed, state)
    endpoint_status(stubbed, "InService", FailureReason="the ping health check failed")
    with pytest.raises(DeployError, match="rolled back to tiny-00000000: the ping") as caught:
        _deploy()
    assert "serves as before" in caught.value.hint


def test_status_and_undeploy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = _deploy().model
    client = boto3.client("sagemaker")
    client.create_model(ModelName="tiny-of-another", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})
    state = endpoint_state("tiny")
    assert (state.status, state.artifact, state.image) == ("InService", PREFIX, IMAGE)
    assert (state.model, state.instance_type, state.instances) == (name, "ml.m5.xlarge", 1)
    made = [("endpoint", "tiny"), ("configuration", name), ("model", name)]
    assert resources("tiny") == made
    assert _run(monkeypatch, "undeploy", "tiny", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"kind": kind, "name": name} for kind, name in made]
    assert _run(monkeypatch, "status", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "InService"
    assert undeploy("tiny", Silent(), poll_seconds=0) == made
    assert resources("tiny") == []
    assert client.describe_model(ModelName="tiny-of-another"), "another's model stays"
    with pytest.raises(DeployError, match="no endpoint `tiny`"):
        undeploy("tiny", Silent())
    assert _run(monkeypatch, "status", "tiny") == 11
    assert "check the name" in capsys.readouterr().err
    client.delete_model(ModelName="tiny-of-another")


def test_another_image_is_another_configuration_and_the_same_endpoint() -> None:
    one, other = (prepare(replace(REQUEST, image=f"{IMAGE[:-1]}{digit}")).deployment for digit in "12")
    assert one.name == other.name
    assert one.config_name != other.config_name
