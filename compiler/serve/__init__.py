"""An artifact behind HTTP on this machine, as an LMI container would serve it.

http        /ping, /invocations: LMI's schema, status codes, streams
batches     one model, a queue, and batches of what is waiting

The server is the standard library's, one thread a connection: in front of one model that computes a batch at a time
there is nothing for a faster one to gain, and nothing to install.
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
    """Serve until SIGTERM or SIGINT; then take no more requests, answer those that were taken, and return.

    The port opens when the model is loaded. `ready(url)` is told then; `port` 0 takes a free one. `queue`: requests
    that wait at most. What is not answered `drain_seconds` after the signal ends with an error.

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
            impatient = threading.Timer(drain_seconds, batches.abort)
            impatient.daemon = True
            impatient.start()
            server.drain()
        impatient.cancel()
        batches.close()


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, also while the model is loading."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
