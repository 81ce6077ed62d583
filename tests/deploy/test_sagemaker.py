"""Endpoints from an artifact in S3, through the real boto3: a server on this machine, and botocore's Stubber."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from moto.server import ThreadedMotoServer

from benchmarks.testbed.artifacts import CONTENT, manifest, write
from compiler.artifact.manifest import Device, Manifest, Parallel
from compiler.cli import main
from compiler.deploy import sagemaker as stage
from compiler.deploy.endpoints import endpoint_state, resources, undeploy
from compiler.deploy.sagemaker import DeployRequest, deploy, prepare
from compiler.errors import ArtifactError, DeployError, IncompatibleError, StoreError, UsageError
from compiler.report import Silent
from compiler.storage.files.digest import digest_bytes
from compiler.targets.trtllm.section import BuildLimits, Engines

PREFIX = "s3://models/tiny/v1/"
ROLE = "arn:aws:iam::123456789012:role/endpoints"
IMAGE = "111122223333.dkr.ecr.us-east-1.amazonaws.com/mine:1"
REQUEST = DeployRequest(PREFIX, "ml.m5.xlarge", ROLE, image=IMAGE)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The bucket `models` with the artifact of `artifact.made` at PREFIX."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    found = boto3.resource("s3").Bucket("models")
    found.create()
    found.objects.all().delete()
    for path, data in {**CONTENT, "manifest.json": manifest().to_bytes()}.items():
        found.put_object(Key=f"tiny/v1/{path}", Body=data)
    yield found
    found.meta.client.close()


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """SageMaker's client, which answers what the test queues and checks every request against the service."""
    client = boto3.client("sagemaker")

    class Session:
        region_name = "us-east-1"

        def client(self, service: str) -> Any:
            return client if service == "sagemaker" else boto3.client("s3")

    monkeypatch.setattr(stage, "session", lambda _: Session())
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def _status(stubber: Stubber, status: str, **more: str) -> None:
    now = "2026-01-01T00:00:00Z"
    answer = {
        "EndpointName": "tiny",
        "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/tiny",
        "EndpointStatus": status,
        "CreationTime": now,
        "LastModifiedTime": now,
        **more,
    }
    stubber.add_response("describe_endpoint", answer, {"EndpointName": "tiny"})


def _made(stubber: Stubber, operation: str, arn: str) -> None:
    stubber.add_response(operation, {arn: f"arn:aws:sagemaker:us-east-1:123456789012:thing/{operation}"})


def test_an_endpoint_comes_to_life() -> None:
    deployment = prepare(REQUEST)
    assert deploy(deployment, Silent(), poll_seconds=0) == "tiny"
    client = boto3.client("sagemaker")
    assert client.describe_endpoint(EndpointName="tiny")["EndpointStatus"] == "InService"
    model = client.describe_model(ModelName=deployment.model_name)
    assert model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"] == PREFIX
    client.delete_endpoint(EndpointName="tiny")


def _cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return _run(monkeypatch, "deploy", *arguments)


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lmi-compile", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--instance-type", "ml.m5.xlarge", "--role", ROLE, "--image", IMAGE, "--name", "mine"]
    assert _cli(monkeypatch, PREFIX, *options, "--dry-run", "--env", "A=b=c") == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["CreateEndpoint", "CreateEndpointConfig", "CreateModel"]
    assert printed["CreateModel"]["PrimaryContainer"]["Environment"] == {"A": "b=c"}
    with pytest.raises(boto3.client("sagemaker").exceptions.ClientError):
        boto3.client("sagemaker").describe_endpoint(EndpointName="mine")
    assert _cli(monkeypatch, PREFIX, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == "mine"
    assert _cli(monkeypatch, PREFIX, *options, "--env", "A") == 2


def test_the_wait_goes_on_until_it_serves(stubbed: Stubber) -> None:
    _made(stubbed, "create_model", "ModelArn")
    _made(stubbed, "create_endpoint_config", "EndpointConfigArn")
    _made(stubbed, "create_endpoint", "EndpointArn")
    for status in ("Creating", "Creating", "InService"):
        _status(stubbed, status)
    assert deploy(prepare(REQUEST), Silent(), poll_seconds=0) == "tiny"


def test_an_endpoint_that_fails_says_why_and_stays(stubbed: Stubber) -> None:
    _made(stubbed, "create_model", "ModelArn")
    _made(stubbed, "create_endpoint_config", "EndpointConfigArn")
    _made(stubbed, "create_endpoint", "EndpointArn")
    _status(stubbed, "Failed", FailureReason="the container did not pass the ping health check")
    with pytest.raises(DeployError, match="is Failed: the container did not pass") as caught:
        deploy(prepare(REQUEST), Silent(), poll_seconds=0)
    assert "/aws/sagemaker/Endpoints/tiny" in caught.value.hint


def test_resources_created_before_a_refused_request_are_deleted(stubbed: Stubber) -> None:
    _made(stubbed, "create_model", "ModelArn")
    _made(stubbed, "create_endpoint_config", "EndpointConfigArn")
    stubbed.add_client_error("create_endpoint", "ResourceLimitExceeded", "0 instances of ml.m5.xlarge")
    name = prepare(REQUEST).model_name
    stubbed.add_response("delete_endpoint_config", {}, {"EndpointConfigName": name})
    stubbed.add_response("delete_model", {}, {"ModelName": name})
    with pytest.raises(DeployError, match="refuses CreateEndpoint: ResourceLimitExceeded") as caught:
        deploy(prepare(REQUEST), Silent(), poll_seconds=0)
    assert "quota" in caught.value.hint


def test_a_failed_deletion_is_a_warning_and_does_not_hide_the_refusal(stubbed: Stubber) -> None:
    warnings: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    _made(stubbed, "create_model", "ModelArn")
    _made(stubbed, "create_endpoint_config", "EndpointConfigArn")
    stubbed.add_client_error("create_endpoint", "ResourceLimitExceeded", "none left")
    stubbed.add_client_error("delete_endpoint_config", "AccessDeniedException", "not you")
    stubbed.add_response("delete_model", {})
    with pytest.raises(DeployError, match="none left"):
        deploy(prepare(REQUEST), Told(), poll_seconds=0)
    assert [("not you" in text, "was not deleted" in text) for text in warnings] == [(True, True)]


def test_existing_resources_are_used_and_not_deleted(stubbed: Stubber) -> None:
    there = "Cannot create already existing model"
    stubbed.add_client_error(
        "create_model", "ValidationException", there, expected_params={"ModelName": ANY, **_rest()}
    )
    stubbed.add_client_error("create_endpoint_config", "ValidationException", "Cannot create already existing endpoint")
    stubbed.add_client_error("create_endpoint", "AccessDeniedException", "no")
    with pytest.raises(DeployError, match="AccessDeniedException") as caught:
        deploy(prepare(REQUEST), Silent(), poll_seconds=0)
    assert "iam:PassRole" in caught.value.hint


def _rest() -> dict[str, Any]:
    return {"ExecutionRoleArn": ROLE, "PrimaryContainer": ANY, "EnableNetworkIsolation": True}


def test_without_waiting(stubbed: Stubber) -> None:
    _made(stubbed, "create_model", "ModelArn")
    _made(stubbed, "create_endpoint_config", "EndpointConfigArn")
    _made(stubbed, "create_endpoint", "EndpointArn")
    assert deploy(prepare(REQUEST), Silent(), wait=False) == "tiny"


def _update(stubber: Stubber) -> None:
    _made(stubber, "create_model", "ModelArn")
    _made(stubber, "create_endpoint_config", "EndpointConfigArn")
    there = "Cannot create already existing endpoint"
    stubber.add_client_error("create_endpoint", "ValidationException", there)
    arn = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/tiny"
    asked = {"EndpointName": "tiny", "EndpointConfigName": prepare(REQUEST).model_name}
    stubber.add_response("update_endpoint", {"EndpointArn": arn}, asked)


def test_an_endpoint_that_exists_gets_the_new_configuration(stubbed: Stubber) -> None:
    _update(stubbed)
    name = prepare(REQUEST).model_name
    for state in ("Updating", "InService"):
        _status(stubbed, state, EndpointConfigName=name)
    assert deploy(prepare(REQUEST), Silent(), poll_seconds=0) == "tiny"


def test_an_update_that_is_rolled_back_is_a_failure(stubbed: Stubber) -> None:
    _update(stubbed)
    for state in ("Updating", "RollingBack"):
        _status(stubbed, state, EndpointConfigName="tiny-00000000")
    _status(stubbed, "InService", EndpointConfigName="tiny-00000000", FailureReason="the ping health check failed")
    with pytest.raises(DeployError, match="rolled back to tiny-00000000: the ping") as caught:
        deploy(prepare(REQUEST), Silent(), poll_seconds=0)
    assert "serves as before" in caught.value.hint


def test_status_and_undeploy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = prepare(REQUEST)
    deploy(deployment, Silent(), poll_seconds=0)
    client = boto3.client("sagemaker")
    client.create_model(ModelName="tiny-of-another", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})
    state = endpoint_state("tiny")
    assert (state.status, state.artifact, state.image) == ("InService", PREFIX, IMAGE)
    assert (state.model, state.instance_type, state.instances) == (deployment.model_name, "ml.m5.xlarge", 1)
    made = [("endpoint", "tiny"), ("configuration", deployment.model_name), ("model", deployment.model_name)]
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
    assert _run(monkeypatch, "status", "tiny") != 0
    client.delete_model(ModelName="tiny-of-another")


def _engines() -> Manifest:
    """The same files as the engines of two A10G, for LMI 0.30."""
    return manifest(
        target="trtllm",
        device=Device(kind="cuda", capability="8.6"),
        parallel=Parallel(tp=2),
        section=Engines(
            version="0.12.0",
            image="0.30.0-tensorrtllm0.12.0-cu125",
            container="triton",
            quant_algo="",
            checkpoint={"rank0.safetensors": digest_bytes(b"rank")},
            checkpoint_files=(),
            files=("weights/rank0.safetensors", "weights/rank1.safetensors"),
            limits=BuildLimits(max_batch_size=8, max_input_len=1024, max_seq_len=1536, max_num_tokens=4096),
            argv=(),
        ),
    )


def test_engines_go_to_their_own_image_and_kind_of_gpu(bucket: Any, stubbed: Stubber) -> None:
    bucket.put_object(Key="tiny/v1/manifest.json", Body=_engines().to_bytes())
    deployment = prepare(DeployRequest(PREFIX, "g5.12xlarge", ROLE))
    assert deployment.instance_type == "ml.g5.12xlarge"
    assert deployment.image == (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.30.0-tensorrtllm0.12.0-cu125"
    )
    with pytest.raises(IncompatibleError, match=r"compute capability 8\.6; NVIDIA L4 of ml\.g6\.12xlarge has 8\.9"):
        prepare(DeployRequest(PREFIX, "ml.g6.12xlarge", ROLE))
    with pytest.raises(IncompatibleError, match=r"split over 2 devices; ml\.g5\.xlarge has 1") as caught:
        prepare(DeployRequest(PREFIX, "ml.g5.xlarge", ROLE))
    assert "ml.g5.12xlarge" in caught.value.hint
    with pytest.raises(IncompatibleError, match=r"the image has 0\.21\.0"):
        prepare(DeployRequest(PREFIX, "ml.g5.12xlarge", ROLE, image="0.33.0"))


def test_an_artifact_of_a_store_is_deployed_by_its_name(tmp_path: Path) -> None:
    from compiler.registry.push import push

    folder = write(tmp_path / "artifact")
    pushed = push(folder, "s3://models/store/tiny@v1")
    deployment = prepare(DeployRequest("s3://models/store/tiny@v1", "ml.m5.xlarge", ROLE, image=IMAGE))
    assert deployment.prefix == f"s3://models/store/tiny/{pushed.digest.removeprefix('sha256:')}/"
    assert deployment.content == pushed.digest
    push(folder, "s3://models/other/tiny@v1", layout="cas")
    with pytest.raises(IncompatibleError, match="no prefix to mount"):
        prepare(DeployRequest("s3://models/other/tiny@v1", "ml.m5.xlarge", ROLE, image=IMAGE))


def _cut(bucket: Any) -> None:
    bucket.put_object(Key="tiny/v1/weights/rank1.safetensors", Body=b"cut")


def _lose(bucket: Any) -> None:
    bucket.Object("tiny/v1/packages/attn.prefill.pt2").delete()


def _unmark(bucket: Any) -> None:
    bucket.Object("tiny/v1/manifest.json").delete()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_cut, r"rank1\.safetensors: 3 bytes, expected 300"),
        (_lose, r"attn\.prefill\.pt2: missing"),
        (_unmark, r"manifest\.json does not exist"),
    ],
)
def test_an_artifact_that_is_not_whole_asks_nothing_of_sagemaker(
    bucket: Any, stubbed: Stubber, change: Callable[[Any], None], said: str
) -> None:
    change(bucket)
    with pytest.raises(ArtifactError, match=said):
        prepare(REQUEST)


def test_requests_that_make_no_sense(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="packed for no image"):
        prepare(DeployRequest(PREFIX, "ml.m5.xlarge", ROLE))
    with pytest.raises(UsageError, match=r"expected an artifact in S3 .*; found `artifacts/tiny`"):
        prepare(DeployRequest("artifacts/tiny", "ml.m5.xlarge", ROLE, image=IMAGE))
    with pytest.raises(IncompatibleError, match="another kind of artifact"):
        prepare(DeployRequest(PREFIX, "ml.g5.xlarge", ROLE, image="0.30.0-tensorrtllm0.12.0-cu125"))
    with pytest.raises(StoreError, match="nowhere"):
        prepare(DeployRequest("s3://nowhere/tiny/", "ml.m5.xlarge", ROLE, image=IMAGE))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UsageError, match="no AWS region"):
        prepare(REQUEST)
