"""Real sockets in front of a model that echoes: routes, bodies, streams, status codes, connections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from compiler.errors import UsageError
from compiler.serve import listening
from compiler.serve.exchange import MOST_BYTES
from tests.serve.running import Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as made:
        yield made


def test_a_whole_answer(server: Served) -> None:
    status, kind, body = server.post({"inputs": "a b", "parameters": {"max_new_tokens": 8}})
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"generated_text": "a b"}


def test_details_and_the_prompt_before_the_answer(server: Served) -> None:
    parameters = {"max_new_tokens": 2, "details": True, "return_full_text": True}
    _, _, body = server.post({"inputs": "a b c", "parameters": parameters}, "/predictions/tiny")
    told = json.loads(body)
    tokens = told["details"].pop("tokens")
    assert told == {
        "generated_text": "a b ca ",
        "details": {"finish_reason": "length", "generated_tokens": 2, "inputs": "a b c"},
    }
    assert [(token["id"], token["text"]) for token in tokens] == [(97, "a"), (32, " ")]
    assert all(-1 < token["log_prob"] < 0 for token in tokens)


def test_a_stream_is_json_lines(server: Served) -> None:
    asked = {"inputs": "a b", "parameters": {"details": True}, "stream": True}
    status, kind, body = server.post(asked, "/models/tiny/invoke")
    assert (status, kind) == (200, "application/jsonlines")
    lines = [json.loads(line) for line in body.splitlines()]
    assert [line["token"]["text"] for line in lines] == ["a", " ", "b", ""]
    assert lines[-1]["generated_text"] == "a b"
    assert lines[-1]["details"] == {"finish_reason": "eos_token", "generated_tokens": 4, "inputs": "a b"}
    assert all("generated_text" not in line for line in lines[:-1])


def test_lines_come_as_they_are_made(server: Served) -> None:
    connection = server.connect()
    connection.request("POST", "/invocations", json.dumps({"inputs": "hold", "stream": True}))
    server.engine.go.release()
    answer = connection.getresponse()
    assert json.loads(answer.readline())["token"]["text"] == "h"
    server.engine.go.release(4)
    *_, last = answer.read().splitlines()
    assert json.loads(last)["generated_text"] == "hold"
    connection.request("GET", "/ping")
    assert connection.getresponse().status == 200, "the connection lives on"
    connection.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON object"),
        ({}, "`inputs` is one text"),
        ({"inputs": ["a", 3]}, "`inputs` is one text"),
        ({"inputs": "a", "parameters": {"max_tokens": 3}}, "`max_tokens` is no parameter"),
        ({"inputs": "a", "parameters": {"top_k": 0.5, "do_sample": 1}}, "`top_k` is a whole number; found 0.5; `do_"),
        ({"inputs": "a", "parameters": {"top_p": 2}}, "above 0 and at most 1"),
        ({"inputs": "a", "stream": "yes"}, "`stream` is true or false"),
        ({"inputs": "a" * 200}, "this artifact holds 96 tokens per row"),
        ({"inputs": "a" * 200, "stream": True}, "this artifact holds 96 tokens per row"),
    ],
)
def test_bad_requests(server: Served, body: Any, said: str) -> None:
    status, kind, answer = server.post(body)
    told = json.loads(answer)
    assert (status, kind) == (400, "application/json")
    assert (told["code"], told["type"]) == (400, "BadRequestException")
    assert said in told["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ping", 200),
        ("GET", "/ping?verbose=1", 200),
        ("GET", "/health", 200),
        ("POST", "/ping", 405),
        ("GET", "/invocations", 405),
        ("PUT", "/invocations", 405),
        ("GET", "/", 404),
        ("POST", "/predictions/other", 404),
    ],
)
def test_routes(server: Served, method: str, path: str, status: int) -> None:
    connection = server.connect()
    connection.request(method, path, b"{}" if method == "POST" else None)
    answer = connection.getresponse()
    assert answer.status == status
    assert json.loads(answer.read())
    connection.close()


def test_a_body_in_chunks_is_read(server: Served) -> None:
    connection = server.connect()
    parts = [b'{"inputs": "a b", ', b'"parameters": {}}']
    connection.request(
        "POST", "/invocations", iter(parts), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (200, {"generated_text": "a b"})
    connection.close()


def test_a_body_that_is_too_large_is_refused_before_it_is_kept(server: Served) -> None:
    with server.socket() as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MOST_BYTES + 1))
        block = b"a" * (1 << 20)
        try:
            for _ in range(MOST_BYTES // len(block) + 1):
                connection.sendall(block)
            answer = connection.recv(1000)
        except ConnectionError:
            answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_old_client_gets_a_stream_without_chunks(server: Served) -> None:
    body = b'{"inputs": "a b", "stream": true}'
    with server.socket() as connection:
        connection.sendall(b"POST /invocations HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, lines = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert [json.loads(line)["token"]["text"] for line in lines.splitlines()] == ["a", " ", "b", ""]


def test_metrics_count_tokens_and_requests(server: Served) -> None:
    def value(name: str) -> float:
        text = server.get("/metrics")[1].decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = value("lmi_compile_generated_tokens_total"), value('lmi_compile_requests_total{status="200"}')
    server.ask("a b")
    after = value("lmi_compile_generated_tokens_total"), value('lmi_compile_requests_total{status="200"}')
    assert after[0] - before[0] == 4
    assert after[1] - before[1] == 3, "this one and two scrapes"
    assert value("lmi_compile_time_to_first_token_seconds_count") >= 1
    assert value("lmi_compile_running_rows") == 0
    assert value("lmi_compile_most_rows") == 3


def test_a_request_has_one_line_in_the_access_log(server: Served, capfd: pytest.CaptureFixture[str]) -> None:
    server.ask("a b")
    server.get("/ping")
    server.post({"inputs": 3})
    time.sleep(0.1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [("/invocations", 200), ("/invocations", 400)]
    assert lines[0] | {"prompt_tokens": 4, "tokens": 4, "finish_reason": "eos_token"} == lines[0]
    assert 0 < lines[0]["first_token_seconds"] <= lines[0]["seconds"]
    assert "`inputs` is one text" in lines[1]["error"]


def test_an_address_that_is_taken(server: Served) -> None:
    port = server.connect().port
    with pytest.raises(UsageError, match="cannot listen"), listening("127.0.0.1", port):
        pass
