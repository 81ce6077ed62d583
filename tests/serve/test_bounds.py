"""Nothing that one client sends, or fails to send, costs another one anything."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.serve.echo import EchoEngine
from tests.serve.running import Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(limit=2, body_seconds=0.5) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


NESTED = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HUGE = b'{"inputs": "a", "parameters": {"temperature": 1' + b"0" * 400 + b', "do_sample": true}}'
HUGER = b'{"inputs": "a", "parameters": {"seed": 1' + b"0" * 10_000 + b"}}"
MANY = json.dumps({"inputs": "a", "parameters": {f"unknown{i}" * 10: i for i in range(100_000)}}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "a", "parameters": {"stop_sequences": ["\\ud83d"]}}',
        NESTED,
        HUGE,
        HUGER,
        MANY,
        json.dumps({"inputs": "a" * 20_000_000}).encode(),
        b"\xff\xfe\x00",
        b'{"inputs": "a", "parameters": {"temperature": NaN}}',
        b'{"inputs": "a", "parameters": {"max_new_tokens": -5}}',
        b'{"inputs": "a", "inputs": 3}',
        b"",
    ],
    ids=["surrogate", "stop", "nested", "huge", "huger", "many", "long", "binary", "nan", "negative", "twice", "empty"],
)
def test_a_bad_body_costs_its_sender_a_400_and_nobody_else_anything(
    server: Served, pool: ThreadPoolExecutor, body: bytes
) -> None:
    bad = pool.submit(server.post, body)
    slowest = 0.0
    while True:
        begun = time.monotonic()
        assert server.get("/ping")[0] == 200
        slowest = max(slowest, time.monotonic() - begun)
        if bad.done():
            break
    status, _, answer = bad.result()
    assert status == 400, answer[:300]
    assert len(answer) < 3000
    assert slowest < 5
    assert server.ask("well") == "well"


def test_a_short_request_is_answered_while_a_long_one_runs(server: Served, pool: ThreadPoolExecutor) -> None:
    long = pool.submit(server.ask, "hold" + "x" * 30)
    assert server.engine.running.acquire(timeout=30)
    short = pool.submit(server.ask, "s")
    _until(lambda: server.worker.queued > 0)
    while not short.done():
        server.engine.go.release()
        time.sleep(0.002)
    assert not long.done()
    server.engine.go.release(200)
    assert (short.result(30), long.result(30)) == ("s", "hold" + "x" * 30)


def _leave(server: Served, *, stream: bool) -> None:
    """Send a request that is held, and close the connection while it runs."""
    with server.socket() as connection:
        body = json.dumps(
            {"inputs": "hold" + "y" * 30, "stream": stream, "parameters": {"max_new_tokens": 40}}
        ).encode()
        connection.sendall(b"POST /invocations HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert server.engine.running.acquire(timeout=30)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row_within_a_step(server: Served, *, stream: bool) -> None:
    _drain(server.engine)
    _leave(server, stream=stream)
    _until(lambda: bool(server.worker._leaving))
    before = server.engine.steps
    server.engine.go.release(1)
    _until(lambda: server.worker.running == 0 and not server.worker._leaving)
    assert server.engine.steps - before <= 1
    assert server.ask("b") == "b"


def _drain(engine: EchoEngine) -> None:
    """Take back what earlier tests released."""
    for semaphore in (engine.go, engine.running):
        while semaphore.acquire(blocking=False):
            pass


def test_a_full_queue_refuses_and_keeps_what_it_took(server: Served, pool: ThreadPoolExecutor) -> None:
    _drain(server.engine)
    running = [pool.submit(server.ask, "hold")]
    assert server.engine.running.acquire(timeout=30)
    waiting: list[Future[str]] = []
    for count in (1, 2):
        waiting.append(pool.submit(server.ask, "a"))
        _until(lambda count=count: server.worker.queued == count)  # type: ignore[misc]
    status, _, body = server.post({"inputs": "b"})
    assert (status, json.loads(body)["type"]) == (503, "ServiceUnavailableException")
    server.engine.go.release(100)
    assert [one.result(30) for one in running + waiting] == ["hold", "a", "a"]


def test_a_body_that_does_not_come_is_given_up(server: Served) -> None:
    with server.socket() as connection:
        connection.sendall(b'POST /invocations HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"inputs"')
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_row_whose_sampling_fails_ends_alone(
    server: Served, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compiler.runtime.row import Row

    real = Row.advance

    def broken(self: Row, logits: Any) -> Any:
        return 1 // 0 if bytes(self.prompt[:-1]) == b"broken" else real(self, logits)

    monkeypatch.setattr(Row, "advance", broken)
    bad, good = pool.submit(server.post, {"inputs": "broken"}), pool.submit(server.ask, "good")
    status, _, body = bad.result(30)
    assert status == 500
    assert "ZeroDivisionError in the server" in json.loads(body)["message"]
    assert good.result(30) == "good"
    assert server.get("/ping")[0] == 200


def test_a_model_that_failed_is_loaded_again() -> None:
    go = threading.Event()

    def load(engines: list[EchoEngine]) -> None:
        if engines:
            go.wait(30)

    with served(load=load) as server, ThreadPoolExecutor(2) as pool:
        other = pool.submit(server.post, {"inputs": "hold"})
        assert server.engine.running.acquire(timeout=30)
        failing = pool.submit(server.post, {"inputs": "fail"})
        _until(lambda: server.worker.queued > 0)
        server.engine.go.release(100)
        assert [one.result(30)[0] for one in (failing, other)] == [500, 500]
        assert server.get("/ping")[0] == 500
        assert server.get("/health")[0] == 503
        assert server.post({"inputs": "a"})[0] == 500
        go.set()
        _until(lambda: server.get("/ping")[0] == 200)
        assert server.ask("again") == "again"
        assert json.loads(server.get("/health")[1])["model_failures"] == 1


def test_drain_answers_what_was_taken_and_takes_no_more() -> None:
    with served() as server, ThreadPoolExecutor(2) as pool:
        held = pool.submit(server.ask, "hold on")
        assert server.engine.running.acquire(timeout=30)
        server.stopping.set()
        _until(lambda: server.worker._stopping)
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            server.get("/ping")
        assert not server.ended.is_set()
        server.engine.go.release(100)
        assert held.result(30) == "hold on"
        assert server.ended.wait(30)


def test_drain_ends_in_its_time_whatever_clients_do() -> None:
    with served(drain_seconds=0.5, body_seconds=60) as server:
        connection = server.connect()
        connection.request("POST", "/invocations", json.dumps({"inputs": "hold on", "stream": True}))
        server.engine.go.release()
        answer = connection.getresponse()
        answer.readline()
        with server.socket() as slow, server.socket() as silent:
            slow.sendall(b'POST /invocations HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"inputs"')
            silent.sendall(b"POST /invoc")
            time.sleep(0.2)
            begun = time.monotonic()
            server.stopping.set()
            threading.Timer(1.0, server.engine.go.release).start()
            last = json.loads(answer.read().splitlines()[-1])
            connection.close()
            assert server.ended.wait(30)
        assert time.monotonic() - begun < 10
    assert last["token"]["error_msg"] == "the server is stopping"
    assert (last["token"]["id"], last["details"]["finish_reason"]) == (-1, "error")
