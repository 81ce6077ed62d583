"""Smoke test of an endpoint in service: one whole answer and one stream through SageMaker's runtime API.

Both must have a text and a finish_reason that is no error, and a log-probability for each token where the container
gives any. One reader takes JSON, JSON lines and server-sent events, in the shapes of every LMI release.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from compiler.deploy.aws import calling
from compiler.deploy.prewarm import PROMPT
from compiler.errors import DeployError

_NEW_TOKENS = 8
_FAILED = ("error", "")
_NULL = "null"
"""Reason of a whole answer at 0.33, where only the stream has one."""


@dataclass(frozen=True)
class Smoke:
    """Result of the smoke test. `seconds`: of the whole answer; `first_token`: until the first token of the stream;
    `prewarmed`: the same time of the prewarm, None without one. `log_probs`: number of tokens that have one.
    """

    finish_reason: str
    tokens: int
    log_probs: int
    seconds: float
    first_token: float
    prewarmed: float | None = None

    @property
    def text(self) -> str:
        beside = "" if self.prewarmed is None else f" (prewarm: {self.prewarmed:.3f} s)"
        return (
            f"answers through the endpoint: first token after {self.first_token:.3f} s{beside}, finish_reason "
            f"{self.finish_reason}, {self.log_probs} of {self.tokens} tokens with a log-probability"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Answer:
    """Answer as it is read, line by line."""

    text: str = ""
    finish_reason: str = ""
    error: str = ""
    log_probs: list[float | None] = field(default_factory=list)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of a stream, or a whole answer."""
        self.error = self.error or str(line.get("error") or line.get("message") or "")
        token = line.get("token")
        if isinstance(token, dict):
            self._add_token(token)
            self.error = self.error or str(token.get("error_msg") or "")
        self.text = line.get("generated_text") or self.text
        details = line.get("details")
        if isinstance(details, dict):
            reason = details.get("finish_reason", self.finish_reason)
            self.finish_reason = _NULL if reason is None else str(reason)
            for one in details.get("tokens") or ():
                self._add_token(one)

    def _add_token(self, token: Mapping[str, Any]) -> None:
        # At 0.26 a token leaves falsy fields out: its text, and a log-probability of 0.
        self.text += token.get("text") or ""
        sparse = 0.0 if "log_prob" not in token and "logprob" not in token else None
        self.log_probs.append(token.get("log_prob", token.get("logprob", sparse)))


def smoke(client: Any, endpoint: str, component: str = "", *, prewarmed: float | None = None) -> Smoke:
    """Test an endpoint, or its inference component `component`. `client`: of `sagemaker-runtime`.

    Raises DeployError: it does not answer, or answers wrongly.
    """
    arguments: dict[str, Any] = {"EndpointName": endpoint, "ContentType": "application/json"}
    arguments |= {"InferenceComponentName": component} if component else {}
    body: dict[str, Any] = {"inputs": PROMPT, "parameters": {"max_new_tokens": _NEW_TOKENS, "details": True}}
    began = time.monotonic()
    with calling("InvokeEndpoint"):
        answer = client.invoke_endpoint(Body=json.dumps(body), **arguments)
        whole = _read(endpoint, _lines([answer["Body"].read()]), *_FAILED)
    seconds = time.monotonic() - began
    began, first = time.monotonic(), math.inf

    def parts() -> Iterator[bytes]:
        nonlocal first
        events = client.invoke_endpoint_with_response_stream(Body=json.dumps(body | {"stream": True}), **arguments)
        for event in events["Body"]:
            first = min(first, time.monotonic() - began)
            yield event["PayloadPart"]["Bytes"]

    with calling("InvokeEndpointWithResponseStream"):
        stream = _read(endpoint, _lines(parts()), *_FAILED, _NULL)
    tokens = stream.log_probs or whole.log_probs
    return Smoke(
        stream.finish_reason,
        len(tokens),
        sum(value is not None for value in tokens),
        round(seconds, 4),
        round(first, 4),
        prewarmed,
    )


def _read(endpoint: str, lines: Iterable[Mapping[str, Any]], *failed: str) -> _Answer:
    """Answer of its lines. Raises DeployError if it is an error, has no text, or has one of the reasons `failed`."""
    found = _Answer()
    for line in lines:
        found.add(line)
    problems = {
        f"error: {found.error}": not found.error,
        "it has no text": found.text != "",
        f"expected a finish_reason; found `{found.finish_reason}`": found.finish_reason not in failed,
        "a log-probability is no finite number": all(x is None or math.isfinite(x) for x in found.log_probs),
    }
    wrong = [problem for problem, holds in problems.items() if not holds]
    if wrong:
        raise DeployError(
            "\n".join([f"endpoint {endpoint} fails its smoke test:", *(f"  {p}" for p in wrong)]), hint=_logs(endpoint)
        )
    return found


def _lines(parts: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """JSON objects of an answer: one, a list with one, one in each line, or one behind each `data:`. A part may end in
    the middle of a line.
    """
    held = b""
    for part in parts:
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield from _objects(line)
    yield from _objects(held)


def _objects(line: bytes) -> Iterator[Mapping[str, Any]]:
    text = line.strip().removeprefix(b"data:").strip()
    if not text or text == b"[DONE]":
        return
    try:
        found = json.loads(text)
    except ValueError:
        raise DeployError(
            f"expected JSON; found {text[:200]!r}", hint="check `--image` and its output formatter"
        ) from None
    yield from (one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict))


def _logs(endpoint: str) -> str:
    return f"CloudWatch logs: /aws/sagemaker/Endpoints/{endpoint}"
