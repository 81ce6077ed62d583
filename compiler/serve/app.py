"""Routes of the server.

    GET  /ping                     200; 500 while the model is being loaded again
    GET  /health, /metrics         state as JSON; Prometheus
    GET  /openapi.json             description of the routes
    POST /invocations, /predictions/NAME, /models/NAME/invoke            `inputs`, `messages` or `prompt`
    POST /v1/chat/completions, /v1/completions
    POST /endpoints/NAME/invocations, /endpoints/NAME/invocations-response-stream      SageMaker's runtime API
         200   JSON, or a stream
         400   the body violates the contract (424 where the LMI release says so), or exceeds the artifact's limits
         408 413   the body comes too slowly, is too large
         500   the model has failed      503   the queue is full, or the server is stopping

After the first part of a stream is sent, an error is the stream's last part.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from compiler.errors import InternalError, LmiCompileError, boundary
from compiler.lmi.contract import DEFAULT, JSON, Contract
from compiler.serve.contract.lmi import parse, read_inputs
from compiler.serve.contract.openai import read_chat, read_completion
from compiler.serve.exchange import (
    Exchange,
    HttpError,
    Stream,
    as_http,
    error_response,
    read_body,
    violation,
    while_connected,
)
from compiler.serve.metrics import CONTENT_TYPE, Metrics, Record
from compiler.serve.openapi import openapi
from compiler.serve.sagemaker import invoke_endpoint
from compiler.serve.worker import Busy, ModelFailed, ServerStopped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.types import Message, Receive, Scope, Send

    from compiler.runtime.params import TextPiece
    from compiler.runtime.row import Row
    from compiler.serve.contract.asked import Asked, Prompt
    from compiler.serve.contract.openai import Render
    from compiler.serve.worker import Ticket, Worker

LOG = logging.getLogger(__name__)
_EXPECTED = (LmiCompileError, HttpError, Busy, ServerStopped, ModelFailed, ClientDisconnect)
_TOKENIZING_THREADS = 2
IGNORED = "x-lmi-compile-ignored-parameters"
"""Response header with the names of parameters that have no effect, percent-encoded."""

Handle = Callable[["Exchange"], Awaitable[None]]


class Endpoint:
    """ASGI app of one handler. Whatever the handler raises is the answer to its request, and nothing else."""

    def __init__(self, handle: Handle, metrics: Metrics) -> None:
        self._handle, self._metrics = handle, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        client = scope.get("client") or ("-", 0)
        record = Record(scope["method"], scope["path"], f"{client[0]}:{client[1]}")
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, record.status = True, message["status"]
            await send(message)

        exchange = Exchange(request, receive, sending, record)
        try:
            await self._handle(exchange)
        except asyncio.CancelledError:  # the server ends, and the body is still on its way
            record.error = "the server is stopping"
            if not started:
                await exchange.respond(error_response(as_http(ServerStopped())))
        except ClientDisconnect:
            record.error = record.error or "the client left"
        except Exception as error:  # noqa: BLE001  # a fault of the server is one request's 500
            _log(error, record)
            answer = as_http(error)
            record.error = answer.message
            if not started:
                await exchange.respond(error_response(answer))
        finally:
            self._metrics.finish(record)


def _log(error: Exception, record: Record) -> None:
    """Write the traceback of an exception that is a fault of the server."""
    if isinstance(error, InternalError) or not isinstance(error, _EXPECTED):
        LOG.error("%s %s", record.method, record.path, exc_info=error)


class Service:
    """Handlers of one worker. `body_seconds`: time limit for the body of a request. `render`: the chat template."""

    def __init__(
        self, worker: Worker, metrics: Metrics, contract: Contract, render: Render | None, body_seconds: float
    ) -> None:
        self._worker, self._metrics, self._contract, self._render = worker, metrics, contract, render
        self._seconds = body_seconds
        self._tokenizing = ThreadPoolExecutor(_TOKENIZING_THREADS, thread_name_prefix="tokenize")

    async def ping(self, exchange: Exchange) -> None:
        if not self._worker.healthy:
            raise ModelFailed
        await exchange.respond(Response(b'{"status": "Healthy"}', media_type=JSON))

    async def health(self, exchange: Exchange) -> None:
        """State of the worker; 503 while it cannot answer."""
        worker = self._worker
        facts = {
            "healthy": worker.healthy,
            "running_rows": worker.running,
            "queued_rows": worker.queued,
            "most_rows": worker.model.limits.max_batch,
            "model_failures": worker.failures,
        }
        await exchange.respond(Response(json.dumps(facts), 200 if worker.healthy else 503, media_type=JSON))

    async def metrics(self, exchange: Exchange) -> None:
        await exchange.respond(Response(self._metrics.text(), media_type=CONTENT_TYPE))

    async def invoke(self, exchange: Exchange) -> None:
        """Answer a body of any form."""
        await self.answer(exchange, await read_body(exchange.request, self._seconds))

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        asked, rows = await self._asked(body)
        exchange.record.prompt_tokens = sum(len(row.prompt) for row in rows)
        headers = {IGNORED: ", ".join(map(quote, asked.ignored))} if asked.ignored else {}
        tickets = self._worker.submit(rows)
        async with while_connected(exchange.receive, tickets):
            if asked.stream:
                first = await tickets[0].next()
                parts = self._parts(exchange.record, asked, tickets, first)
                await exchange.respond(Stream(parts, asked.reply.media_type, headers))
            else:
                pieces = [await self._pieces(exchange.record, ticket) for ticket in tickets]
                body = asked.reply.whole(rows, pieces)
                await exchange.respond(Response(body, headers=headers, media_type=asked.reply.media_type))

    async def _asked(self, body: bytes) -> tuple[Asked, list[Row]]:
        """Parse and tokenize, away from the event loop and the model's thread. Raises HttpError."""
        model, loop = self._worker.model, asyncio.get_running_loop()

        def work() -> tuple[Asked, list[Row]]:
            with boundary(step="tokenizing"):
                return rows()

        def rows() -> tuple[Asked, list[Row]]:
            content, most = parse(body), model.limits.max_positions
            if "inputs" in content or not ("messages" in content or "prompt" in content):
                asked = read_inputs(content, self._contract)
            elif "messages" in content:
                asked = read_chat(content, self._render, most)
            else:
                asked = read_completion(content, most)
            ids: dict[Prompt, list[int]] = {}
            for prompt in asked.prompts:
                if prompt not in ids:
                    ids[prompt] = model.encode(prompt.text, special=prompt.special)[-(prompt.keep or 0) :]
            made = []
            for index, (prompt, params) in enumerate(zip(asked.prompts, asked.params, strict=True)):
                room = max(1, most - len(ids[prompt]))
                fitting = replace(params, max_new_tokens=room) if asked.fit and params.max_new_tokens > room else params
                made.append(model.row(index, ids[prompt], fitting))
            return asked, made

        try:
            return await loop.run_in_executor(self._tokenizing, work)
        except LmiCompileError as error:
            raise violation(error, self._contract.violation) from None

    async def _pieces(self, record: Record, ticket: Ticket) -> list[TextPiece]:
        pieces: list[TextPiece] = []
        last = record.begun
        while not pieces or pieces[-1].completion is None:
            pieces.append(await ticket.next())
            last = self._count(record, pieces[-1], last)
        return pieces

    async def _parts(
        self, record: Record, asked: Asked, tickets: Sequence[Ticket], first: TextPiece
    ) -> AsyncIterator[bytes]:
        """Parts of a stream, row by row. An exception after the first part becomes the last part."""
        last, piece = record.begun, first
        try:
            for index, ticket in enumerate(tickets):
                if index:
                    piece = await ticket.next()
                while True:
                    last = self._count(record, piece, last)
                    yield asked.reply.part(index, ticket.row, piece)
                    if piece.completion is not None:
                        break
                    piece = await ticket.next()
            yield asked.reply.end()
        except Exception as error:  # noqa: BLE001  # the status is sent: the stream has the error
            _log(error, record)
            record.error = as_http(error).message
            yield asked.reply.failed(record.error)

    def _count(self, record: Record, piece: TextPiece, last: float) -> float:
        if piece.completion is not None:
            record.finish_reason = piece.completion.finish_reason
        return self._metrics.token(record, last)


def make_app(
    name: str, worker: Worker, *, contract: Contract = DEFAULT, render: Render | None = None, body_seconds: float = 60.0
) -> Starlette:
    """ASGI app that serves `worker` as the model `name`. `render`: chat template of its tokenizer."""
    metrics = Metrics(worker)
    service = Service(worker, metrics, contract, render, body_seconds)
    description = Response(json.dumps(openapi(name, contract, worker.model.limits.max_positions)), media_type=JSON)

    async def describe(exchange: Exchange) -> None:
        await exchange.respond(description)

    routes: list[tuple[str, str, Handle]] = [
        ("GET", "/ping", service.ping),
        ("GET", "/health", service.health),
        ("GET", "/metrics", service.metrics),
        ("GET", "/openapi.json", describe),
        ("POST", "/invocations", service.invoke),
        ("POST", f"/predictions/{name}", service.invoke),
        ("POST", f"/models/{name}/invoke", service.invoke),
        ("POST", "/v1/chat/completions", service.invoke),
        ("POST", "/v1/completions", service.invoke),
        ("POST", f"/endpoints/{name}/invocations", invoke_endpoint(service.invoke, stream=False)),
        ("POST", f"/endpoints/{name}/invocations-response-stream", invoke_endpoint(service.invoke, stream=True)),
    ]

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        messages = {404: f"no route {path}: this is model `{name}`", 405: f"{path} does not allow {request.method}"}
        client = request.client or ("-", 0)
        record = Record(request.method, path, f"{client[0]}:{client[1]}", time.perf_counter(), error.status_code)
        record.error = messages.get(error.status_code, error.detail)
        metrics.finish(record)
        answer = error_response(HttpError(error.status_code, record.error))
        answer.headers.update(error.headers or {})
        return answer

    return Starlette(
        routes=[Route(path, Endpoint(handle, metrics), methods=[method]) for method, path, handle in routes],
        exception_handlers={HTTPException: unrouted},
    )
