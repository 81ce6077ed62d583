"""The clients that two AWS posts publish, through boto3's `sagemaker-runtime`, against the server.

Client 1 (confidence scores): a line iterator over PayloadParts, JSON lines, log_prob of each token that has a text,
`generated_text` of one that has none. Client 2 (chained answers): the texts of tokens, and another request with the
grown text while the finish reason is `length`. The code is ours; their behavior is as described in the posts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from compiler.lmi.contract import contract_of
from tests.serve.running import Served, served

if TYPE_CHECKING:
    from concurrent.futures import Future


def _runtime(server: Served) -> Any:
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=Config(retries={"max_attempts": 0}),
    )


def _lines(server: Served, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """JSON lines of a response stream; a PayloadPart may end in the middle of a line."""
    answer = _runtime(server).invoke_endpoint_with_response_stream(
        EndpointName="tiny", Body=json.dumps(body), ContentType="application/json"
    )
    held = b""
    with closing(answer["Body"]) as events:
        for event in events:
            held += event["PayloadPart"]["Bytes"]
            *whole, held = held.split(b"\n")
            yield from (json.loads(line) for line in whole if line)
    assert not held


def _client_1(server: Served, prompt: str, limit: int = 40) -> tuple[str | None, float]:
    """Text and confidence, as the post computes them."""
    log_probs, text = [], None
    for line in _lines(
        server, {"inputs": prompt, "parameters": {"max_new_tokens": limit, "details": True}, "stream": True}
    ):
        if line["token"].get("text") is not None:
            log_probs.append(line["token"].get("log_prob", line["token"].get("logprob")) or 0.0)
        elif line.get("generated_text") is not None:
            text = line["generated_text"]
    return text, math.exp(sum(log_probs) / len(log_probs))


def _client_2(server: Served, prompt: str, limit: int) -> tuple[str, int]:
    """Text and number of requests, as the post chains them."""
    text, requests = "", 0
    while True:
        reason, requests = None, requests + 1
        asked = {"inputs": prompt + text, "parameters": {"max_new_tokens": limit, "details": True}, "stream": True}
        for line in _lines(server, asked):
            text += line["token"].get("text") or ""
            reason = (line.get("details") or {}).get("finish_reason") or reason
        if reason != "length" or requests > 3:
            return text, requests


def test_client_1_gets_its_text_at_0_26() -> None:
    with served(contract=contract_of("0.26")) as server:
        text, confidence = _client_1(server, "hello")
    assert text == "hello"
    assert 0.5 < confidence < 1


@pytest.mark.parametrize(("version", "backend"), [("0.30", "trtllm"), ("0.33", "vllm")])
def test_client_1_loses_its_text_at_later_releases(version: str, backend: str) -> None:
    """Their last token has a text, if an empty one, so that the client never looks at `generated_text`."""
    with served(contract=contract_of(version, backend)) as server:
        assert _client_1(server, "hello")[0] is None


@pytest.mark.parametrize("version", ["0.26", "0.30"])
def test_client_2_chains_answers_that_end_by_length(version: str) -> None:
    with served(contract=contract_of(version)) as server:
        assert _client_2(server, "hello", 40) == ("hello", 1)
        text, requests = _client_2(server, "ab", 1)
    assert requests == 4
    assert text == "aaaa", "one token of each answer, which repeats the beginning of its prompt"


def test_a_portable_client_reads_every_release() -> None:
    """The one that the README shows: text from tokens, the reason from details, both spellings of log_prob."""
    for version, backend in [("0.26", "trtllm"), ("0.27", "trtllm"), ("0.30", "trtllm"), ("0.33", "vllm")]:
        with served(contract=contract_of(version, backend)) as server:
            asked = {"inputs": "ab", "parameters": {"details": True, "do_sample": False}, "stream": True}
            lines = list(_lines(server, asked))
        assert "".join(line["token"].get("text") or "" for line in lines) == "ab", version
        assert lines[-1]["details"]["finish_reason"] in ("eos_token", "stop")
        assert [line for line in lines if line.get("generated_text") is not None] == lines[-1:]


def test_invoke_endpoint_answers_and_reports_errors_as_sagemaker_does() -> None:
    with served() as server:
        runtime = _runtime(server)
        answer = runtime.invoke_endpoint(EndpointName="tiny", Body=b'{"inputs": "ab"}', ContentType="application/json")
        assert json.load(answer["Body"]) == {"generated_text": "ab"}
        for call in (runtime.invoke_endpoint, runtime.invoke_endpoint_with_response_stream):
            with pytest.raises(ClientError) as caught:
                call(EndpointName="tiny", Body=b'{"inputs": 3}', ContentType="application/json")
            told = caught.value.response
            assert told["Error"]["Code"] == "ModelError"
            assert told["OriginalStatusCode"] == 400
            assert "`inputs` is one text" in told["OriginalMessage"]


def test_a_stream_that_an_error_ends_raises_a_model_stream_error() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def read(server: Served) -> list[dict[str, Any]]:
        return list(_lines(server, {"inputs": "hold on", "stream": True, "parameters": {"max_new_tokens": 40}}))

    with served() as server, ThreadPoolExecutor(1) as pool:
        reading: Future[Any] = pool.submit(read, server)
        assert server.engine.running.acquire(timeout=30)
        server.engine.go.release(2)
        assert server.engine.running.acquire(timeout=30)
        server.worker.abort()
        server.engine.go.release(10)
        with pytest.raises(EventStreamError, match="the server is stopping"):
            reading.result(30)
