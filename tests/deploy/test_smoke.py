"""The smoke test through boto3: against the server in every release's shape, and answers that must fail it."""

from __future__ import annotations

import io
import json
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.stub import Stubber
from botocore.validate import ParamValidator

from compiler.deploy.request import prepare
from compiler.deploy.rollout import deploy
from compiler.deploy.smoke import Smoke, smoke
from compiler.errors import DeployError
from compiler.lmi.contract import CONTRACTS, contract_of
from compiler.report import Silent
from tests.deploy.deployments import REQUEST, created, endpoint_status, exists
from tests.serve.running import served


def _client(url: str) -> Any:
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(retries={"max_attempts": 0}),
    )


@pytest.mark.parametrize(("version", "backend"), CONTRACTS)
def test_every_release_passes(version: str, backend: str) -> None:
    with served(contract=contract_of(version, backend)) as server:
        found = smoke(_client(server.url), "tiny", prewarmed=0.25)
    assert found.finish_reason in ("eos_token", "stop", "eos"), found
    assert found.tokens >= len("Hello")
    assert found.first_token < 30
    assert "(prewarm: 0.250 s)" in found.text
    null = contract_of(version, backend).tokens == "async text"
    assert found.log_probs == (0 if null else found.tokens)


def test_server_sent_events_pass() -> None:
    with served(contract=contract_of("0.30", "trtllm", "sse")) as server:
        assert smoke(_client(server.url), "tiny").tokens


def test_a_container_that_fails_does_not_pass() -> None:
    with served() as server:
        server.worker.close()
        with pytest.raises(DeployError, match="InvokeEndpoint"):
            smoke(_client(server.url), "tiny")


WHOLE = {"generated_text": "a", "details": {"finish_reason": "length", "tokens": [{"text": "a", "log_prob": -0.5}]}}


class _Runtime:
    """Client of the runtime with made-up answers, which checks requests against botocore's model of the service."""

    def __init__(self, whole: bytes, stream: list[bytes]) -> None:
        self.whole, self.stream = whole, stream
        self.model = botocore.session.get_session().get_service_model("sagemaker-runtime")

    def _check(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        shape = self.model.operation_model(operation).input_shape
        assert ParamValidator().validate(arguments, shape).generate_report() == ""
        assert arguments["InferenceComponentName"] == "copies"
        body: dict[str, Any] = json.loads(arguments["Body"])
        return body

    def invoke_endpoint(self, **arguments: Any) -> dict[str, Any]:
        assert "stream" not in self._check("InvokeEndpoint", arguments)
        return {"Body": io.BytesIO(self.whole)}

    def invoke_endpoint_with_response_stream(self, **arguments: Any) -> dict[str, Any]:
        assert self._check("InvokeEndpointWithResponseStream", arguments)["stream"] is True
        return {"Body": [{"PayloadPart": {"Bytes": part}} for part in self.stream]}


def _answering(whole: bytes, stream: list[bytes]) -> Smoke:
    return smoke(_Runtime(whole, stream), "tiny", "copies")


LAST = json.dumps({"token": {"text": "b", "log_prob": -1}, "details": {"finish_reason": "length"}}).encode()


def test_parts_may_end_anywhere() -> None:
    found = _answering(json.dumps([WHOLE]).encode(), [LAST[:9], LAST[9:] + b"\n\n"])
    assert (found.tokens, found.log_probs, found.finish_reason) == (1, 1, "length")


@pytest.mark.parametrize(
    ("whole", "stream", "said"),
    [
        (json.dumps(WHOLE | {"error": "out of memory"}).encode(), [], "error: out of memory"),
        (json.dumps({"code": 424, "message": "invoke failed"}).encode(), [], "error: invoke failed"),
        (json.dumps(WHOLE | {"details": {"finish_reason": "error"}}).encode(), [], "found `error`"),
        (json.dumps({"generated_text": "a"}).encode(), [], "expected a finish_reason; found ``"),
        (json.dumps(WHOLE | {"generated_text": "", "details": {"finish_reason": "length"}}).encode(), [], "no text"),
        (b"<html>", [], "expected JSON; found b'<html>'"),
        (b'{"details": {"finish_reason": "length", "tokens": [{"text": "a", "log_prob": NaN}]}}', [], "no finite"),
        (json.dumps(WHOLE).encode(), [], "has no text"),
    ],
)  # fmt: skip
def test_answers_that_fail(whole: bytes, stream: list[bytes], said: str) -> None:
    with pytest.raises(DeployError, match=said) as caught:
        _answering(whole, stream)
    assert "/aws/sagemaker/Endpoints/tiny" in caught.value.hint or "--image" in caught.value.hint


def _queue_update(stubber: Stubber, name: str) -> None:
    created(stubber, "create_model")
    created(stubber, "create_endpoint_config")
    exists(stubber, "create_endpoint")
    endpoint_status(stubber, "InService")
    created(stubber, "update_endpoint")
    endpoint_status(stubber, "InService", name)


def test_a_deployment_ends_with_the_smoke_test(stubbed: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(REQUEST)
    _queue_update(stubbed, prepared.deployment.config_name)
    with served() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", server.url)
        done = deploy(prepared, Silent(), test=True, poll_seconds=0)
    assert done.smoke
    assert done.to_json()["smoke"]["finish_reason"] == "eos_token"


def test_a_failed_smoke_test_rolls_an_update_back(stubbed: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(REQUEST)
    _queue_update(stubbed, prepared.deployment.config_name)
    created(stubbed, "update_endpoint", {"EndpointName": "tiny", "EndpointConfigName": "tiny-00000000"})
    for status in ("Updating", "InService"):
        endpoint_status(stubbed, status)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DeployError, match="InvokeEndpoint") as caught:
        deploy(prepared, Silent(), test=True, poll_seconds=0)
    assert "was rolled back and serves as before" in caught.value.hint


def test_a_new_endpoint_that_fails_its_smoke_test_stays(stubbed: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(REQUEST)
    for operation in ("create_model", "create_endpoint_config", "create_endpoint"):
        created(stubbed, operation)
    endpoint_status(stubbed, "InService", prepared.deployment.config_name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DeployError, match="InvokeEndpoint") as caught:
        deploy(prepared, Silent(), test=True, poll_seconds=0)
    assert "`lmi-compile undeploy tiny` deletes it" in caught.value.hint
