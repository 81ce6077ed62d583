"""Metrics of the server in Prometheus' text format, and the access log.

Names follow Prometheus' conventions (base units, `_total`, `_seconds`).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.serve.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass
class Record:
    """Line of the access log: one request."""

    method: str
    path: str
    client: str
    begun: float = field(default_factory=time.perf_counter)
    status: int = 499  # the client left before an answer
    prompt_tokens: int = 0
    tokens: int = 0
    first_token_seconds: float | None = None
    finish_reason: str = ""
    error: str = ""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    def line(self) -> str:
        """JSON object; facts that the request does not have are left out. `time`: seconds since 1970."""
        facts = {
            "time": round(time.time(), 3),
            "client": self.client,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "seconds": round(self.seconds, 6),
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "first_token_seconds": None if self.first_token_seconds is None else round(self.first_token_seconds, 6),
            "finish_reason": self.finish_reason,
            "error": self.error[:500],
        }
        return json.dumps({name: value for name, value in facts.items() if value or name == "status"})


class Metrics:
    """Counters of a server and its worker."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(worker))
        name, to = "lmi_compile", self.registry
        self._requests = Counter("requests", "Requests by status.", ["status"], name, registry=to)
        self._prompts = Counter("prompt_tokens", "Tokens of prompts.", namespace=name, registry=to)
        self._tokens = Counter("generated_tokens", "Generated tokens.", namespace=name, registry=to)
        self._seconds = Histogram(
            "request_seconds", "Duration of requests.", namespace=name, registry=to, buckets=_SECONDS
        )
        self._first = Histogram(
            "time_to_first_token_seconds",
            "Time from a request to its first token.",
            namespace=name,
            registry=to,
            buckets=_SECONDS,
        )
        self._between = Histogram(
            "inter_token_seconds",
            "Time between two tokens of an answer.",
            namespace=name,
            registry=to,
            buckets=_STEP_SECONDS,
        )

    def token(self, record: Record, last: float) -> float:
        """Count one token, `last`: the clock at the one before it. -> the clock now."""
        now = time.perf_counter()
        record.tokens += 1
        self._tokens.inc()
        if record.first_token_seconds is None:
            record.first_token_seconds = now - record.begun
            self._first.observe(record.first_token_seconds)
        else:
            self._between.observe(now - last)
        return now

    def finish(self, record: Record) -> None:
        """Count a request that is answered, and write its line; health checks that succeed have none."""
        self._requests.labels(str(record.status)).inc()
        self._prompts.inc(record.prompt_tokens)
        self._seconds.observe(record.seconds)
        if record.path not in ("/ping", "/health", "/metrics") or record.status >= 400:
            print(record.line(), file=sys.stderr, flush=True)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Gauges:
    """State of the worker at the moment it is asked for."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        worker = self._worker
        limits = worker.model.limits
        room = limits.max_batch * limits.max_positions
        yield GaugeMetricFamily("lmi_compile_queued_rows", "Rows that wait for a place.", worker.queued)
        yield GaugeMetricFamily("lmi_compile_running_rows", "Rows with a place in the caches.", worker.running)
        yield GaugeMetricFamily("lmi_compile_most_rows", "Rows that run at once at most.", limits.max_batch)
        yield GaugeMetricFamily(
            "lmi_compile_cache_usage_ratio", "Part of the KV cache in use.", worker.positions / room
        )
        yield GaugeMetricFamily("lmi_compile_model_failures", "Failures of the model since the start.", worker.failures)
        yield GaugeMetricFamily("lmi_compile_healthy", "1 if the model can answer.", float(worker.healthy))
