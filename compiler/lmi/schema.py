"""Requests and answers of LMI's endpoints: JSON, and JSON lines for a stream.

    {"inputs": "text", "parameters": {...}, "stream": false}

    {"generated_text": "...", "details": {"finish_reason": "length", "generated_tokens": 8, "inputs": "text",
     "tokens": [{"id": 304, "text": " a", "log_prob": -0.05}, ...]}}                     details: on request

    {"token": {"id": 304, "text": " a", "log_prob": -0.05}}                              stream: one line per token
    {"token": {...}, "generated_text": "...", "details": {...}}                          its last line; no tokens

Written as LMI 0.28 to 0.32 write it. Texts of tokens join to `generated_text`.

Sources: engines/python/setup/djl_python/{output_formatter,request_io}.py at v0.29.0;
serving/docs/lmi/user_guides/lmi_input_output_schema.md at v0.29.0 for the parameters and their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from compiler.errors import UsageError

JSON = "application/json"
JSON_LINES = "application/jsonlines"

_ENDPOINT = "See the log of the endpoint's container."
_EXAMPLE = 'A request is such as {"inputs": "text", "parameters": {"max_new_tokens": 40}, "stream": true}.'


@dataclass(frozen=True)
class Parameters:
    """Sampling and form of an answer. Without `do_sample` it is greedy, whatever the other fields are.

    `details`: add finish_reason, counts and tokens. `return_full_text`: put the prompt before the answer.
    """

    do_sample: bool = False
    seed: int | None = None
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 30
    details: bool = False
    return_full_text: bool = False
    stop_sequences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt."""

    inputs: str
    parameters: Parameters = field(default_factory=Parameters)
    stream: bool = False

    def to_json(self) -> dict[str, Any]:
        """Body of the request, without parameters at their defaults."""
        given = {
            f.name: list(value) if isinstance(value, tuple) else value
            for f in fields(Parameters)
            if (value := getattr(self.parameters, f.name)) != f.default
        }
        return {"inputs": self.inputs, "parameters": given, "stream": self.stream}


@dataclass(frozen=True)
class AnswerToken:
    """Generated token. `log_prob`: natural logarithm of its probability."""

    id: int
    text: str
    log_prob: float
    special: bool = False

    def to_json(self) -> dict[str, Any]:
        special = {"special_token": True} if self.special else {}
        return {"id": self.id, "text": self.text, "log_prob": self.log_prob, **special}


@dataclass(frozen=True)
class Details:
    """Details of an answer. `tokens`: None in the last line of a stream, whose other lines have them."""

    finish_reason: str
    generated_tokens: int | None = None
    inputs: str | None = None
    tokens: tuple[AnswerToken, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        tokens = {} if self.tokens is None else {"tokens": [token.to_json() for token in self.tokens]}
        content = {"generated_tokens": self.generated_tokens, "inputs": self.inputs}
        return {"finish_reason": self.finish_reason, **{k: v for k, v in content.items() if v is not None}, **tokens}


@dataclass(frozen=True)
class Answer:
    """Complete answer; with `details` on request."""

    generated_text: str
    details: Details | None = None

    def to_json(self) -> dict[str, Any]:
        details = {} if self.details is None else {"details": self.details.to_json()}
        return {"generated_text": self.generated_text, **details}


@dataclass(frozen=True)
class StreamLine:
    """One line of a stream; the last one has the answer. `error`: message of the error that ended it early."""

    token: AnswerToken
    answer: Answer | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        token = {**self.token.to_json(), **({"error_msg": self.error} if self.error else {})}
        return {"token": token, **(self.answer.to_json() if self.answer else {})}


def dump(value: Answer | StreamLine) -> bytes:
    """UTF-8 JSON; a Line with the newline that ends it."""
    text = json.dumps(value.to_json(), ensure_ascii=False)
    # Python allows a lone half of a surrogate pair in text; UTF-8 does not.
    return (text + ("\n" if isinstance(value, StreamLine) else "")).encode("utf-8", "replace")


def failed_line(message: str, text: str) -> StreamLine:
    """Last line of a stream that an error ended. `text`: the answer so far."""
    return StreamLine(AnswerToken(-1, "", -1.0, special=True), Answer(text, Details("error")), message)


def parse_request(body: bytes) -> Request:
    """Parse the body of a request.

    Raises:
        UsageError: a list of all violations of the schema. Unknown parameters are violations: ignoring them would give
            another answer than the requested one.
    """
    try:
        content = json.loads(body)
    except ValueError as error:
        raise UsageError(f"the request is not JSON: {error}", hint=_EXAMPLE) from None
    if not isinstance(content, dict):
        raise UsageError(f"expected a JSON object, found {type(content).__name__}", hint=_EXAMPLE)
    problems = [] if isinstance(content.get("inputs"), str) else ["`inputs` is one text"]
    stream, parameters = content.get("stream", False), content.get("parameters") or {}
    if not isinstance(stream, bool):
        problems.append("`stream` is true or false")
    if not isinstance(parameters, dict):
        raise UsageError(f"`parameters` takes a JSON object, found {type(parameters).__name__}", hint=_EXAMPLE)
    problems += [f"`{name}` is no field" for name in content if name not in ("inputs", "parameters", "stream")]
    known = {f.name: f for f in fields(Parameters)}
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        if name not in known:
            problems.append(f"`{name}` is no parameter; expected one of {', '.join(known)}")
            continue
        fits, wanted = _CHECKS[known[name].type](value)
        if fits:
            values[name] = tuple(value) if isinstance(value, list) else value
        else:
            problems.append(f"`{name}` is {wanted}; found {json.dumps(value)}")
    if problems:
        raise UsageError("; ".join(problems), hint=_EXAMPLE)
    return Request(content["inputs"], Parameters(**values), stream)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS: Mapping[Any, Any] = {
    "bool": lambda value: (isinstance(value, bool), "true or false"),
    "int": lambda value: (_whole(value), "a whole number"),
    "int | None": lambda value: (value is None or _whole(value), "a whole number"),
    "float": lambda value: (_whole(value) or isinstance(value, float), "a number"),
    "tuple[str, ...]": lambda value: (
        isinstance(value, list) and all(isinstance(text, str) for text in value),
        "a list of texts",
    ),
}
