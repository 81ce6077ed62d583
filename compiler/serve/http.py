"""HTTP front end of `Batches`: routes, bodies and status codes of an LMI container (DJL Serving).

    GET  /ping                                       200; 500 when the model has failed
    POST /invocations, /predictions/NAME, /models/NAME/invoke
         200   application/json, or a stream of application/jsonlines (`"stream": true`)
         400   the body violates the schema, or exceeds the artifact's limits
         404 405 411 413   unknown route, wrong method, no Content-Length, body too large
         500   a bug, which ends this request only; or the model has failed
         503   the queue is full, or the server is stopping

An error is {"code": 400, "type": "BadRequestException", "message": "..."}, as the front end of DJL Serving writes it
(NettyUtils.java at v0.26.0); its Python workers answer a violated schema with 424 instead. An error after the first
line of a stream is the stream's last line, with `error_msg` and finish_reason `error`, as LMI 0.29 writes it.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import TYPE_CHECKING, Any

from compiler.errors import (
    REPORT_IT,
    InternalError,
    LmiCompileError,
    RefusedError,
    TokenizerError,
    UsageError,
    boundary,
)
from compiler.lmi.schema import (
    JSON,
    JSON_LINES,
    Answer,
    AnswerToken,
    Details,
    Parameters,
    Request,
    StreamLine,
    dump,
    failed_line,
    parse_request,
)
from compiler.runtime.params import Completion, GenerationParams, TextPiece
from compiler.serve.batches import Batches, Busy, ServerStopped
from compiler.storage.cache.crashes import write_crash_file

if TYPE_CHECKING:
    from types import TracebackType

MOST_BYTES = 25 << 20
"""Size limit of a request, SageMaker's own."""
_MOST_DIGITS = 12
"""Length limit of Content-Length: Python refuses to convert thousands of digits."""
_IDLE_SECONDS = 120
_POLL_SECONDS = 0.05
"""Interval at which the accepting thread checks whether it shall stop."""

_TYPES = {
    HTTPStatus.BAD_REQUEST: "BadRequestException",
    HTTPStatus.NOT_FOUND: "ResourceNotFoundException",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowedException",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableException",
}


class Server:
    """Listening server, which answers requests until `drain`. `port`: 0 takes a free one.

    Raises:
        UsageError: the address cannot be taken.
    """

    def __init__(self, host: str, port: int, name: str, batches: Batches) -> None:
        try:
            self._http = _Http((host, port), name, batches)
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error}", hint="`--port 0` takes a free port") from None
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(_POLL_SECONDS,), name="http", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain()

    @property
    def url(self) -> str:
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    def drain(self) -> None:
        """Accept no more connections, and wait until every request in flight is answered."""
        if not self._http.draining:
            self._http.draining = True
            self._http.shutdown()
            self._http.close_idle()
            self._http.server_close()
            self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], name: str, batches: Batches) -> None:
        self.name, self.batches = name, batches
        self.draining = False
        self._idle: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def idle(self, connection: socket.socket, *, is_idle: bool) -> None:
        """Record whether a connection waits for its next request; `drain` closes idle connections."""
        with self._lock:
            (self._idle.add if is_idle else self._idle.discard)(connection)
            if is_idle and self.draining:
                _end(connection)

    def close_idle(self) -> None:
        with self._lock:
            for connection in self._idle:
                _end(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an exception that ended a connection, as a line and without a traceback."""
        del request
        error = sys.exc_info()[1]
        # A client that disconnects in the middle of a request is no fault of the server.
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            facts = {"step": "connection", "client": str(client_address)}
            _report(InternalError(error, facts, hint=REPORT_IT))


def _end(connection: socket.socket) -> None:
    """Shut down the reading side of a connection, so that its reader sees the end of the stream."""
    try:
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        return  # already closed


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    server_version = "lmi-compile"
    sys_version = ""
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True  # tokens are small packets that must not be delayed

    def handle_one_request(self) -> None:
        self.server.idle(self.connection, is_idle=True)
        try:
            super().handle_one_request()
        finally:
            self.server.idle(self.connection, is_idle=False)

    def parse_request(self) -> bool:
        self.server.idle(self.connection, is_idle=False)
        return super().parse_request()

    def do_GET(self) -> None:
        if not self._routed({"/ping"}, self._invocations):
            return
        if self.server.batches.healthy:
            self._send(HTTPStatus.OK, b'{"status": "Healthy"}')
        else:
            self._error(HTTPStatus.INTERNAL_SERVER_ERROR, "the model has failed")

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if not self._routed(self._invocations, {"/ping"}):
            return
        try:
            with boundary(step="request", bytes=len(body)):
                request = parse_request(body)
                params = generation_params(request.parameters)
            with closing(self.server.batches.answer(request.inputs, params)) as stream:
                first = next(stream)
                (self._stream if request.stream else self._whole)(request, chain([first], stream))
        except LmiCompileError as error:
            _report(error)
            self._error(_status(error), _message(error))
        except Busy:
            self._error(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting")
        except ServerStopped:
            self._error(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")

    @property
    def _invocations(self) -> set[str]:
        name = self.server.name
        return {"/invocations", f"/predictions/{name}", f"/models/{name}/invoke"}

    def _routed(self, routes: set[str], others: set[str]) -> bool:
        """Whether the path is one of `routes`; sends the error if not. `others`: routes of the other method."""
        path = self.path.partition("?")[0]
        if path in others:
            self._error(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not allow {self.command}")
        elif path not in routes:
            self._error(HTTPStatus.NOT_FOUND, f"no route {path}: this is model `{self.server.name}`")
        return path in routes

    def _whole(self, request: Request, pieces: Iterator[TextPiece]) -> None:
        all_pieces = list(pieces)
        tokens = tuple(_token(piece) for piece in all_pieces)
        self._send(HTTPStatus.OK, dump(_answer(request, all_pieces[-1].completion, tokens)))

    def _stream(self, request: Request, pieces: Iterator[TextPiece]) -> None:
        """Send the answer as lines, one per chunk. After the status is sent, an error is a line too."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", JSON_LINES)
        chunked = self.request_version != "HTTP/1.0"
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self._end_headers()
        for line in _lines(request, pieces):
            data = dump(line)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes | None:
        """Body of the request; None where an error was sent instead."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            self._error(HTTPStatus.LENGTH_REQUIRED, "a request needs a Content-Length")
            return None
        if len(length) > _MOST_DIGITS or int(length) > MOST_BYTES:
            self.close_connection = True
            self._error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MOST_BYTES} bytes")
            return None
        return self.rfile.read(int(length))

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", JSON)
        self.send_header("Content-Length", str(len(body)))
        self._end_headers()
        self.wfile.write(body)

    def _end_headers(self) -> None:
        if self.server.draining:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _error(self, status: HTTPStatus, message: str) -> None:
        kind = _TYPES.get(status, "InternalServerException" if status >= 500 else "BadRequestException")
        self._send(status, json.dumps({"code": status.value, "type": kind, "message": message}).encode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error that http.server detects, in LMI's form."""
        del explain
        unsupported = code == HTTPStatus.NOT_IMPLEMENTED
        self.close_connection = True
        self._error(HTTPStatus.METHOD_NOT_ALLOWED if unsupported else HTTPStatus(code), message or "")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if code != HTTPStatus.OK or not self.requestline.startswith("GET /ping"):  # polled every few seconds
            super().log_request(code, size)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in http.server
        print(f"{self.address_string()} {format % args}", file=sys.stderr, flush=True)


def generation_params(parameters: Parameters) -> GenerationParams:
    """Sampling parameters of a request. Raises UsageError for values outside their range."""
    return GenerationParams(
        max_new_tokens=parameters.max_new_tokens,
        temperature=parameters.temperature if parameters.do_sample else 0.0,
        top_k=max(parameters.top_k, 0) if parameters.top_k >= -1 else parameters.top_k,
        top_p=parameters.top_p,
        repetition_penalty=parameters.repetition_penalty,
        seed=parameters.seed,
        stop=parameters.stops,
        ignore_eos=parameters.ignore_eos_token,
        frequency_penalty=parameters.frequency_penalty,
        presence_penalty=parameters.presence_penalty,
    )


def _lines(request: Request, pieces: Iterator[TextPiece]) -> Iterator[StreamLine]:
    text = ""
    try:
        for piece in pieces:
            text += piece.text
            completion = piece.completion
            yield StreamLine(_token(piece), _answer(request, completion) if completion else None)
    except LmiCompileError as error:
        _report(error)
        yield failed_line(_message(error), text)
    except ServerStopped:
        yield failed_line("the server is stopping", text)


def _answer(request: Request, completion: Completion | None, tokens: tuple[AnswerToken, ...] | None = None) -> Answer:
    assert completion is not None
    text = (request.inputs if request.parameters.return_full_text else "") + completion.text
    if not request.parameters.details:
        return Answer(text)
    return Answer(text, Details(completion.finish_reason, len(completion.tokens), request.inputs, tokens))


def _token(piece: TextPiece) -> AnswerToken:
    """Token of a piece, with the piece's text: it lags while a character is incomplete, but the texts join to the
    answer.
    """
    return AnswerToken(piece.token.id, piece.text, piece.token.log_prob, piece.token.special)


def _status(error: LmiCompileError) -> HTTPStatus:
    """Status of an error: 400 where the client can change the request, 500 for everything else."""
    clients = isinstance(error, UsageError | RefusedError | TokenizerError)
    return HTTPStatus.BAD_REQUEST if clients else HTTPStatus.INTERNAL_SERVER_ERROR


def _report(error: LmiCompileError) -> None:
    """Log a bug on stderr, with the file that has its traceback; other errors are the client's to know."""
    if isinstance(error, InternalError):
        print(f"{error.message}\n  traceback: {write_crash_file(error)}", file=sys.stderr, flush=True)


def _message(error: LmiCompileError) -> str:
    """Text of an error for a client. The details of a bug are in the server's log."""
    if isinstance(error, InternalError):
        return "internal error of the server; its log has the details"
    return " ".join(filter(None, (error.message, error.hint)))
