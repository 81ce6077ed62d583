"""A server of an `EchoEngine` on a socket of this machine, in a thread."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from compiler.serve import listening, run
from compiler.serve.app import make_app
from compiler.serve.worker import Worker
from tests.serve.echo import EchoEngine, echo_model


@dataclass
class Served:
    """`engine`: of the model that was loaded last. `stop()` begins the drain; `ended` is set when it is over."""

    worker: Worker
    engines: list[EchoEngine]
    url: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def engine(self) -> EchoEngine:
        return self.engines[-1]

    def connect(self, timeout: float = 30) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)

    def socket(self) -> socket.socket:
        place = urlsplit(self.url)
        assert place.hostname
        assert place.port
        return socket.create_connection((place.hostname, place.port), timeout=30)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def post(
        self, body: Any, path: str = "/invocations", headers: dict[str, str] | None = None
    ) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        connection.request("POST", path, data, headers or {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.status, answer.headers["Content-Type"], answer.read()
        connection.close()
        return found

    def ask(self, prompt: str, **parameters: Any) -> str:
        """Text of a whole answer."""
        status, _, body = self.post({"inputs": prompt, "parameters": {"max_new_tokens": 40, **parameters}})
        assert status == 200, body
        text: str = json.loads(body)["generated_text"]
        return text


@contextmanager
def serving(
    load: Callable[[], Any],
    *,
    limit: int = 100,
    drain_seconds: float = 30.0,
    body_seconds: float = 5.0,
    **options: Any,
) -> Iterator[Served]:
    """Running server of the model that `load` opens. `options`: of `make_app`."""
    worker = Worker(load, limit)
    made = Served(worker, [])
    ready = threading.Event()

    def begin(url: str) -> None:
        made.url = url
        ready.set()

    def work() -> None:
        app = make_app("tiny", worker, body_seconds=body_seconds, **options)
        with listening("127.0.0.1", 0) as listener:
            asyncio.run(run(app, worker, listener, made.stopping, drain_seconds, begin))
        made.ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(30)
    try:
        yield made
    finally:
        made.stopping.set()
        for engine in made.engines:
            engine.go.release(10_000)
        thread.join(60)
        worker.close()
    assert not thread.is_alive()


@contextmanager
def served(
    *, load: Callable[[list[EchoEngine]], None] = lambda _: None, limit: int = 4, **options: Any
) -> Iterator[Served]:
    """Running server of a model that echoes. `load` is called with the engines so far before each one is made."""
    engines: list[EchoEngine] = []

    def model() -> Any:
        load(engines)
        engines.append(EchoEngine())
        return echo_model(engines[-1])

    with serving(model, limit=limit, **options) as made:
        made.engines = engines
        yield made
