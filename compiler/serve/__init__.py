"""HTTP server for an artifact on this machine, with the routes and schema of an LMI container.

http        /ping, /invocations: LMI's schema, status codes, streams
batches     one model, a queue, and batches of the queued requests

The server is the standard library's, with one thread per connection: a faster one gains nothing in front of one model
that computes one batch at a time, and would have to be installed.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compiler.serve.batches import Batches
from compiler.serve.http import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def serve(
    artifact: Path,
    *,
    host: str,
    port: int,
    queue: int,
    drain_seconds: float,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then drain: accept no more requests, answer those in flight, and return.

    The port opens when the model is loaded; `ready(url)` is called then. `port`: 0 takes a free one. `queue`: maximum
    number of queued requests. Requests still in flight `drain_seconds` after the signal end with an error.

    Raises what `targets.runners.model_of` raises, and UsageError for an address that cannot be taken.
    """
    from compiler.artifact.manifest import load_manifest
    from compiler.targets.runners import model_of

    with _stopping() as stop, model_of(artifact) as model:
        batches = Batches(model, model.max_batch, queue)
        server = Server(host, port, load_manifest(artifact).name, batches)
        with server:
            ready(server.url)
            stop.wait()
            deadline = threading.Timer(drain_seconds, batches.abort)
            deadline.daemon = True
            deadline.start()
            server.drain()
        deadline.cancel()
        batches.close()


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Event that SIGTERM and SIGINT set, also while the model is loading."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
