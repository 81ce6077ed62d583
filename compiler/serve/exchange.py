"""One HTTP request and its answer, within bounds: body, time limits, a client that leaves, errors in LMI's form.

An error is {"code": 400, "type": "BadRequestException", "message": "..."}, as the front end of DJL Serving writes it
(NettyUtils.java at v0.26.0); its Python workers answer a violated schema with 424 instead.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from compiler.errors import InternalError, LmiCompileError, NumericsError, RankError, UsageError
from compiler.lmi.contract import JSON
from compiler.serve.worker import Busy, ModelFailed, ServerStopped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from compiler.serve.metrics import Record
    from compiler.serve.worker import Ticket

MOST_BYTES = 25 << 20
"""Size limit of a request, SageMaker's own (InvokeEndpoint, November 2025)."""
MOST_MESSAGE = 2000
"""Characters of an error's message."""
_WORKER = 424
"""Status of errors of DJL Serving's Python workers, which have a form of their own."""
_WRITE_SECONDS = 60.0
"""Time limit for a client that reads nothing of an answer."""

_TYPES = {
    400: "BadRequestException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    503: "ServiceUnavailableException",
}


@dataclass
class Exchange:
    """One request, and the way to answer it."""

    request: Request
    receive: Receive
    send: Send
    record: Record

    def with_send(self, send: Send) -> Exchange:
        return replace(self, send=send)

    async def respond(self, response: Response) -> None:
        await response(self.request.scope, self.receive, self.send)


@dataclass(frozen=True)
class HttpError(Exception):
    """An answer other than 200."""

    status: int
    message: str

    @property
    def kind(self) -> str:
        """Name of the error in LMI's form."""
        return _TYPES.get(self.status, "InternalServerException" if self.status >= 500 else "BadRequestException")


def as_http(error: Exception) -> HttpError:
    """HTTP error of any exception of a request."""
    match error:
        case HttpError():
            return error
        case Busy():
            return HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting")
        case ServerStopped():
            return HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")
        case ModelFailed() | RankError():
            return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed, and is being loaded again")
        case InternalError():
            return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error.cause_name} in the server; its log has more")
        case NumericsError():
            return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, error.message)
        case LmiCompileError():
            return HttpError(HTTPStatus.BAD_REQUEST, ". ".join(filter(None, (error.message, error.hint))))
    return HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__} in the server; its log has more")


def violation(error: LmiCompileError, status: int) -> HttpError:
    """Error of a request that cannot be answered. `status`: for a violated schema; limits of the artifact are 400."""
    found = as_http(error)
    return HttpError(status, found.message) if isinstance(error, UsageError) else found


def error_response(error: HttpError) -> Response:
    message = error.message if len(error.message) <= MOST_MESSAGE else f"{error.message[:MOST_MESSAGE]} ..."
    content = {"code": error.status, "type": error.kind, "message": message}
    if error.status == _WORKER:
        content = {"code": error.status, "error": message}
    return Response(json.dumps(content), status_code=error.status, media_type=JSON)


async def read_body(request: Request, seconds: float) -> bytes:
    """Body of a request, chunked or with a length.

    Raises:
        HttpError: 413 for more than MOST_BYTES, 408 where it is not complete after `seconds`.
        ClientDisconnect: the client left.
    """
    if int(request.headers.get("content-length") or 0) > MOST_BYTES:
        raise HttpError(413, f"a request has at most {MOST_BYTES} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    raise HttpError(413, f"a request has at most {MOST_BYTES} bytes")
                parts.append(part)
    except TimeoutError:
        raise HttpError(408, f"the body was not complete after {seconds:g} s") from None
    return b"".join(parts)


@asynccontextmanager
async def while_connected(receive: Receive, tickets: list[Ticket]) -> AsyncIterator[None]:
    """Context in which rows are in flight: they leave at its end, and at once when the client leaves.

    Raises ClientDisconnect in the latter case.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if left:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
        for ticket in tickets:
            ticket.leave()


class Stream(Response):
    """Response whose body is sent in parts as they come. A client that reads nothing is left after a minute."""

    def __init__(self, parts: AsyncIterator[bytes], media_type: str, headers: dict[str, str]) -> None:
        self._parts = parts
        super().__init__(headers={**headers, "content-type": media_type})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"] == "1.0":  # which has no chunks
            whole = Response(b"".join([part async for part in self._parts]), headers=dict(self.headers))
            await whole(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts:
            await self._send(send, part, more=True)
        await self._send(send, b"", more=False)

    @staticmethod
    async def _send(send: Send, part: bytes, *, more: bool) -> None:
        message: dict[str, Any] = {"type": "http.response.body", "body": part, "more_body": more}
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await send(message)
        except TimeoutError:
            raise ClientDisconnect from None
