"""Proxy between a client and an S3 server that injects faults.

with proxy(endpoint) as between:
    between.faults = lambda request: "reset" if request.number == 3 else None

500 503 slow-down    an answer of the proxy's own; the server never gets the request
lost                 the server executes the request, the client gets a 500
reset                half of the body, then RST
truncated            half of the body, then a clean end
wrong-down           the body with one bit flipped, right length
wrong-up             the request's body with one bit flipped on its way to the server
late                 the right answer, 50 ms later
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from benchmarks.testbed.local_server import StatefulHandler, serve_state

FAULTS = ("500", "503", "slow-down", "lost", "reset", "truncated", "wrong-down", "wrong-up", "late")
_ANSWERS = {"500": (500, "InternalError"), "503": (503, "ServiceUnavailable"), "slow-down": (503, "SlowDown")}


@dataclass(frozen=True)
class Request:
    """Request to the server. `number`: from 0, in the order of arrival; `nbytes`: size of its body."""

    number: int
    method: str
    path: str
    query: str
    nbytes: int

    @property
    def is_part(self) -> bool:
        """Whether the request sends a part of a multipart upload."""
        return self.method == "PUT" and "partNumber=" in self.query


@dataclass
class Proxy:
    """Proxy with faults. `faults`: function of a request that returns its fault, or None; `broken`: number of injected
    faults by kind; `requests`: all requests.

    `md5_etags` False: the ETags of parts are no MD5 digests, as on servers that encrypt.
    """

    url: str
    upstream: str
    faults: Callable[[Request], str | None] = lambda _: None
    md5_etags: bool = True
    broken: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy in front of the server at `upstream` (http://host:port)."""
    with serve_state(_Handler, lambda url: Proxy(url, upstream)) as between:
        yield between


class _Handler(StatefulHandler[Proxy], BaseHTTPRequestHandler):
    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # a client that was killed
            self.close_connection = True

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        with self.state.lock:
            request = Request(len(self.state.requests), self.command, split.path, split.query, len(body))
            self.state.requests.append(request)
            fault = self.state.faults(request)
            if fault == "wrong-up" and not body:
                fault = None
            if fault is not None:
                self.state.broken[fault] += 1
        if fault in _ANSWERS:
            self._refuse(*_ANSWERS[fault])
            return
        body = _flipped(body) if fault == "wrong-up" else body
        status, headers, answer = self._ask(body if self.state.md5_etags else _reversed_etags(body))
        if request.is_part and not self.state.md5_etags:
            headers = [(name, value[::-1] if name.lower() == "etag" else value) for name, value in headers]
        if fault == "lost":
            self._refuse(500, "InternalError")
            return
        if fault == "late":
            time.sleep(0.05)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(answer)))
        self.end_headers()
        if fault in ("reset", "truncated"):
            self.wfile.write(answer[: len(answer) // 2])
            self._cut(hard=fault == "reset")
            return
        self.wfile.write(_flipped(answer) if fault == "wrong-down" else answer)

    def do_GET(self) -> None:
        self._forward()

    def do_HEAD(self) -> None:
        self._forward()

    def do_PUT(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()

    def do_DELETE(self) -> None:
        self._forward()

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        split = urlsplit(self.state.upstream)
        connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):  # Host stays: it is signed
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _refuse(self, status: int, code: str) -> None:
        answer = f"<Error><Code>{code}</Code><Message>of the tests</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _cut(self, *, hard: bool) -> None:
        self.wfile.flush()
        if hard:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _reversed_etags(body: bytes) -> bytes:
    """Body of the request that completes a multipart upload, with the server's own ETags."""
    return re.sub(rb"(?<=<ETag>)(\W|quot|#34)*([0-9a-f]{32})", lambda found: found[0][:-32] + found[2][::-1], body)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
