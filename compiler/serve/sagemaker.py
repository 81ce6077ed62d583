"""SageMaker's runtime API on this machine: boto3's `sagemaker-runtime` with `endpoint_url`.

    POST /endpoints/NAME/invocations                      InvokeEndpoint
    POST /endpoints/NAME/invocations-response-stream      InvokeEndpointWithResponseStream

The first answers as /invocations does; an answer that is no 200 becomes a ModelError, with the container's status and
body. The second has the container's bytes as PayloadPart events of an AWS event stream; behind the bytes of a stream
that an error ended comes a ModelStreamError. Sources: botocore's service model sagemaker-runtime 2017-05-13; the
encoding of Amazon event streams (AWS SDK documentation, "vnd.amazon.eventstream").
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING

from starlette.responses import Response

from compiler.serve.exchange import HttpError, as_http, error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message

    from compiler.serve.exchange import Exchange

EVENT_STREAM = "application/vnd.amazon.eventstream"
_STRING = 7
"""Type of a header's value."""
_MODEL_ERROR = 424
_ORIGINAL_BYTES = 1024


def encode_event(headers: dict[str, str], payload: bytes) -> bytes:
    """Message of an event stream.

    4 bytes length of the message, 4 of its headers, CRC-32 of these; headers; payload; CRC-32 of all before it. A
    header is the length of its name, the name, the type of its value, 2 bytes length, the value. Big-endian.
    """
    parts = []
    for name, value in headers.items():
        text = value.encode()
        parts.append(struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(text)) + text)
    head = b"".join(parts)
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


def payload_part(part: bytes) -> bytes:
    """Event with bytes of the container's answer."""
    headers = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    return encode_event(headers, part)


def stream_error(message: str) -> bytes:
    """Exception that ends a stream."""
    headers = {
        ":message-type": "exception",
        ":exception-type": "ModelStreamError",
        ":content-type": "application/json",
    }
    return encode_event(headers, json.dumps({"Message": message, "ErrorCode": "ModelInvocationError"}).encode())


def model_error(status: int, body: bytes) -> Response:
    """ModelError of an answer with another status than 200."""
    content = {
        "Message": f"Received client or server error ({status}) from the model.",
        "OriginalStatusCode": status,
        "OriginalMessage": body[:_ORIGINAL_BYTES].decode("utf-8", "replace"),
        "LogStreamArn": "",
    }
    headers = {"x-amzn-ErrorType": "ModelError"}
    return Response(json.dumps(content), _MODEL_ERROR, headers=headers, media_type="application/json")


def invoke_endpoint(
    invoke: Callable[[Exchange], Awaitable[None]], *, stream: bool
) -> Callable[[Exchange], Awaitable[None]]:
    """Handler of a route of the runtime API, around the handler of /invocations."""

    async def handle(exchange: Exchange) -> None:
        wrapped = _Wrapped(exchange, stream=stream)
        try:
            await invoke(exchange.with_send(wrapped))
        except HttpError as error:
            body = error_response(error).body
            await exchange.respond(model_error(error.status, bytes(body)))
        except Exception as error:
            if wrapped.started:
                raise
            found = as_http(error)
            exchange.record.error = found.message
            await exchange.respond(model_error(found.status, bytes(error_response(found).body)))

    return handle


class _Wrapped:
    """`send` that turns the answer of a container into that of an endpoint."""

    def __init__(self, exchange: Exchange, *, stream: bool) -> None:
        self._send, self._record, self._stream = exchange.send, exchange.record, stream
        self.started = False

    async def __call__(self, message: Message) -> None:
        self.started = True
        if not self._stream:
            await self._send(message)
        elif message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"application/octet-stream")
            headers = [(b"content-type", EVENT_STREAM.encode()), (b"x-amzn-sagemaker-content-type", kind)]
            await self._send({**message, "headers": headers})
        else:
            body = message.get("body", b"")
            event = payload_part(body) if body else b""
            if not message.get("more_body") and self._record.error:
                event += stream_error(self._record.error)
            await self._send({**message, "body": event})
