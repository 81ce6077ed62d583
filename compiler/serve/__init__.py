"""HTTP server for an artifact on this machine, with the routes and schema of an LMI container.

app         routes
contract    body of a request -> rows, pieces of rows -> body of an answer
exchange    bounds of one request: size, time, errors, a client that leaves
worker      the thread with the model; rows join and leave its batch
metrics     Prometheus, access log
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.runtime.params import GenerationParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from starlette.applications import Starlette

    from compiler.lmi.contract import Contract
    from compiler.runtime.generate import Model
    from compiler.serve.worker import Worker

_BACKLOG = 2048
_GRACE_SECONDS = 2.0
"""Time between the end of all answers in flight and the end of connections that still send."""


def serve(
    artifact: Path,
    *,
    host: str,
    port: int,
    queue: int,
    drain_seconds: float,
    body_seconds: float,
    contract: Contract,
    ready: Callable[[str], None],
    given: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM or SIGINT; then drain: accept no more requests, answer those in flight, and return.

    The port opens when the model is loaded; `ready(url)` is called then. `port`: 0 takes a free one. `queue`: maximum
    number of rows that wait for a place. Requests still in flight `drain_seconds` after the signal end with an error.
    `body_seconds`: time limit for the body of a request. `contract`: form of requests and answers. `given`: options of
    the command line among these four, which a toolchain's own server (`Runner.serve`) does not have.

    Raises what `targets.runners.model_of` raises, and UsageError for an address that cannot be taken and for `given`
    with a toolchain's own server.
    """
    from compiler.artifact.manifest import load_manifest
    from compiler.runtime.chat import load_chat_template
    from compiler.serve.app import make_app
    from compiler.serve.worker import Worker
    from compiler.targets.runners import model_of, runner_of

    manifest = load_manifest(artifact)
    with _stopping() as stop:
        runner = runner_of(manifest)
        if runner is not None and runner.own_server:
            _check_given(runner.own_server, given)
            runner.serve(artifact, host, port, ready, stop)
            return
        name, render = manifest.name, load_chat_template(artifact / "tokenizer")
        worker = Worker(lambda: _warm(model_of(artifact)), queue)
        try:
            with listening(host, port) as listener:
                app = make_app(name, worker, contract=contract, render=render, body_seconds=body_seconds)
                asyncio.run(run(app, worker, listener, stop, drain_seconds, ready))
        finally:
            worker.close()


def _check_given(server: str, given: Sequence[str]) -> None:
    if given:
        raise UsageError(
            f"{server}'s own server serves this artifact, with its own routes, answers and limits; found "
            f"{', '.join(f'`{flag}`' for flag in given)}",
            hint=f"leave {'it' if len(given) == 1 else 'them'} out; LMI's answers are those of its container",
        )


def _warm(model: Model) -> Model:
    """The model after two short answers at once, so that every package is loaded before the first request."""
    rows = min(2, model.limits.max_batch)
    model.generate([[0, 0]] * rows, GenerationParams(max_new_tokens=2, ignore_eos=True))
    model.generate([[0]], GenerationParams(max_new_tokens=2, ignore_eos=True))
    return model


async def run(
    app: Starlette,
    worker: Worker,
    listener: socket.socket,
    stop: threading.Event,
    drain_seconds: float,
    ready: Callable[[str], None],
) -> None:
    """Serve `app` on a bound socket until `stop` is set, then drain."""
    import uvicorn

    class Server(uvicorn.Server):
        # `stop` replaces uvicorn's signal handlers, which end the process by the signal.
        capture_signals = staticmethod(nullcontext)  # type: ignore[assignment]

    worker.start()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=drain_seconds + _GRACE_SECONDS,  # type: ignore[arg-type]  # seconds of wait_for
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    host, port = listener.getsockname()[:2]
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    ready(f"http://{host}:{port}")
    while not stop.is_set() and not serving.done():
        await asyncio.sleep(0.05)
    worker.stop()
    deadline = asyncio.get_running_loop().call_later(drain_seconds, worker.abort)
    server.should_exit = True
    await serving
    deadline.cancel()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Bound socket; uvicorn listens on it. Raises UsageError."""
    with ExitStack() as stack:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listener = stack.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error}", hint="`--port 0` takes a free port") from None
        yield listener


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
