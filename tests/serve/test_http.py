"""Real sockets in front of a scripted model: routes, bodies, streams, status codes, connections, the end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from compiler.errors import UsageError
from compiler.serve.batches import Batches
from compiler.serve.http import MOST_BYTES, Server
from tests.serve.scripted import Scripted


@pytest.fixture
def model() -> Scripted:
    return Scripted()


@pytest.fixture
def server(model: Scripted) -> Iterator[Server]:
    batches = Batches(model, most=3, limit=2)
    with Server("127.0.0.1", 0, "tiny", batches) as made:
        yield made
        batches.abort()
        model.go.release(100)
    batches.close()


@contextmanager
def _connected(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def _get(connection: http.client.HTTPConnection, path: str) -> int:
    """The status of a GET; the connection stays open."""
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _post(server: Server, body: Any, path: str = "/invocations") -> tuple[int, str, bytes]:
    """Status, content type and body of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with _connected(server) as connection:
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()


def test_a_whole_answer(server: Server) -> None:
    status, kind, body = _post(server, {"inputs": "a b", "parameters": {"max_new_tokens": 8}})
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"generated_text": "a b"}


def test_details_and_the_prompt_before_the_answer(server: Server) -> None:
    parameters = {"max_new_tokens": 2, "details": True, "return_full_text": True}
    _, _, body = _post(server, {"inputs": "a b c", "parameters": parameters}, "/predictions/tiny")
    assert json.loads(body) == {
        "generated_text": "a b ca b",
        "details": {
            "finish_reason": "length",
            "generated_tokens": 2,
            "inputs": "a b c",
            "tokens": [{"id": 0, "text": "a", "log_prob": -0.5}, {"id": 1, "text": " b", "log_prob": -1.0}],
        },
    }


def test_a_stream_is_json_lines(server: Server) -> None:
    asked = {"inputs": "a b", "parameters": {"details": True}, "stream": True}
    status, kind, body = _post(server, asked, "/models/tiny/invoke")
    assert (status, kind) == (200, "application/jsonlines")
    assert [json.loads(line) for line in body.splitlines()] == [
        {"token": {"id": 0, "text": "a", "log_prob": -0.5}},
        {
            "token": {"id": 1, "text": " b", "log_prob": -1.0},
            "generated_text": "a b",
            "details": {"finish_reason": "eos_token", "generated_tokens": 2, "inputs": "a b"},
        },
    ]


def test_lines_come_as_they_are_made(server: Server, model: Scripted) -> None:
    with _connected(server) as connection:
        connection.request("POST", "/invocations", json.dumps({"inputs": "hold on", "stream": True}))
        model.go.release()
        answer = connection.getresponse()
        assert json.loads(answer.readline())["token"]["text"] == "hold"
        model.go.release()
        assert json.loads(answer.readline())["generated_text"] == "hold on"
        assert answer.read() == b""
        assert _get(connection, "/ping") == 200, "the connection lives on"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON object"),
        ({}, "`inputs` is one text"),
        ({"inputs": ["a"]}, "`inputs` is one text"),
        (
            {"inputs": "a", "parameters": {"max_tokens": 3}},
            "`max_tokens` is no parameter; expected one of do_sample, seed",
        ),
        ({"inputs": "a", "parameters": {"top_k": 0.5, "do_sample": 1}}, "`top_k` is a whole number; found 0.5; `do_"),
        ({"inputs": "a", "parameters": {"top_p": 2}}, "above 0 and at most 1"),
        ({"inputs": "a", "stream": "yes"}, "`stream` is true or false"),
        ({"inputs": "refuse"}, "128 tokens a row Shorten"),
        ({"inputs": "refuse", "stream": True}, "128 tokens a row Shorten"),
    ],
)
def test_bad_requests(server: Server, body: Any, said: str) -> None:
    status, kind, answer = _post(server, body)
    told = json.loads(answer)
    assert (status, kind) == (400, "application/json")
    assert (told["code"], told["type"]) == (400, "BadRequestException")
    assert said in told["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ping", 200),
        ("GET", "/ping?verbose=1", 200),
        ("POST", "/ping", 405),
        ("GET", "/invocations", 405),
        ("PUT", "/invocations", 405),
        ("GET", "/", 404),
        ("POST", "/predictions/other", 404),
    ],
)
def test_routes(server: Server, method: str, path: str, status: int) -> None:
    with _connected(server) as connection:
        connection.request(method, path, b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        assert answer.status == status
        assert json.loads(answer.read())


def _raw(server: Server, data: bytes) -> bytes:
    host, _, port = urlsplit(server.url).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 411 "),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 411 "),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MOST_BYTES + 1), b"HTTP/1.1 413 "),
        (b"nonsense\r\n\r\n", b'{"code": 400'),
    ],
)
def test_requests_that_are_no_http(server: Server, sent: bytes, status: bytes) -> None:
    assert _raw(server, sent).startswith(status)


def test_an_old_client_gets_a_stream_without_chunks(server: Server) -> None:
    body = b'{"inputs": "a b", "stream": true}'
    answer = _raw(server, b"POST /invocations HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    head, _, lines = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert [json.loads(line)["token"]["text"] for line in lines.splitlines()] == ["a", " b"]


def test_a_full_queue(server: Server, model: Scripted) -> None:
    with ThreadPoolExecutor(4) as pool:
        held = pool.submit(_post, server, {"inputs": "hold"})
        assert model.running.acquire(timeout=30)
        waiting = [pool.submit(_post, server, {"inputs": "a"}) for _ in range(2)]
        while server._http.batches._waiting.qsize() < 2:
            threading.Event().wait(0.01)
        status, _, body = _post(server, {"inputs": "b"})
        model.go.release(2)
        assert (status, json.loads(body)["type"]) == (503, "ServiceUnavailableException")
        assert [w.result(30)[0] for w in [held, *waiting]] == [200, 200, 200]


def test_a_failed_model(server: Server) -> None:
    status, _, body = _post(server, {"inputs": "fail"})
    assert (status, json.loads(body)["type"]) == (500, "InternalServerException")
    with _connected(server) as connection:
        assert _get(connection, "/ping") == 500


def test_a_stream_that_is_cut_ends_with_the_error(server: Server, model: Scripted) -> None:
    with _connected(server) as connection:
        connection.request("POST", "/invocations", json.dumps({"inputs": "hold on and on", "stream": True}))
        model.go.release()
        answer = connection.getresponse()
        answer.readline()
        server._http.batches.abort()
        model.go.release()
        # The token that was being computed may still come.
        last = json.loads(answer.read().splitlines()[-1])
    assert last["token"]["error_msg"] == "the server is stopping"
    assert (last["token"]["id"], last["details"]["finish_reason"]) == (-1, "error")


def test_a_client_that_goes_away_leaves_the_server_well(
    server: Server, model: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    with _connected(server) as connection:
        connection.request("POST", "/invocations", json.dumps({"inputs": "hold" + " a" * 20, "stream": True}))
        model.go.release()
        connection.getresponse().readline()
    model.go.release(100)
    assert _post(server, {"inputs": "b"})[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_drain_answers_what_was_taken_and_closes_what_idles(server: Server, model: Scripted) -> None:
    with _connected(server) as idle, ThreadPoolExecutor(2) as pool:
        assert _get(idle, "/ping") == 200
        held = pool.submit(_post, server, {"inputs": "hold on"})
        assert model.running.acquire(timeout=30)
        draining = pool.submit(server.drain)
        while not server._http.draining:
            threading.Event().wait(0.01)
        assert not draining.done()
        model.go.release(2)
        assert held.result(30)[0] == 200
        draining.result(30)
    with _connected(server) as late, pytest.raises(ConnectionRefusedError):
        _get(late, "/ping")


def test_an_address_that_is_taken(server: Server, model: Scripted) -> None:
    batches = Batches(model, most=1, limit=1)
    port = urlsplit(server.url).port
    assert port is not None
    with pytest.raises(UsageError, match="cannot listen"):
        Server("127.0.0.1", port, "tiny", batches)
    batches.close()
