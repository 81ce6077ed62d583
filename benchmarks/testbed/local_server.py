"""HTTP servers on this machine, in a thread: for the hub of the tests and the proxy with faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Generic, TypeVar

State = TypeVar("State")


class StatefulHandler(BaseHTTPRequestHandler, Generic[State]):
    """Handler of requests with the state of its server. It logs nothing: the state notes the requests."""

    protocol_version = "HTTP/1.1"

    def __init__(self, state: State, *arguments: object) -> None:
        self.state = state
        super().__init__(*arguments)  # type: ignore[arg-type]  # what the server passes to every handler

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serve_state(handler: type[StatefulHandler[State]], state_of: Callable[[str], State]) -> Iterator[State]:
    """Serve requests by `handler`, each with the one state that `state_of` makes from the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    state = state_of(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = partial(handler, state)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
