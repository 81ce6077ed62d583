"""Requests and answers of LMI's endpoints: JSON, and JSON lines for a stream.

    {"inputs": "text", "parameters": {...}, "stream": false}

    {"generated_text": "...", "details": {"finish_reason": "length", "generated_tokens": 8, "inputs": "text",
     "tokens": [{"id": 304, "text": " a", "log_prob": -0.05}, ...]}}                     details: on request

    {"token": {"id": 304, "text": " a", "log_prob": -0.05}}                              stream: one line per token
    {"token": {...}, "generated_text": "...", "details": {...}}                          its last line; no tokens

Written as LMI 0.28 to 0.32 write it. Texts of tokens join to `generated_text`.

Sources: engines/python/setup/djl_python/{output_formatter,request_io}.py at v0.29.0;
serving/docs/lmi/user_guides/lmi_input_output_schema.md at v0.29.0 and for v0.31.0 for the parameters and their
defaults. A parameter that is null has its default, as clients of Text Generation Inference send it.
"""

from __future__ import annotations

import json
import math
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

    `details`: add finish_reason, counts and tokens. `return_full_text`: put the prompt before the answer. `top_k`: 0
    and -1 are off. `stop`: more stop sequences, as Text Generation Inference names them; LMI's documentation has a
    boolean without an effect. `decoder_input_details` and `spaces_between_special_tokens` have an effect on vLLM only.
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
    stop: tuple[str, ...] | bool = ()
    ignore_eos_token: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    decoder_input_details: bool = False
    spaces_between_special_tokens: bool = True

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop sequences."""
        return self.stop_sequences + (self.stop if isinstance(self.stop, tuple) else ())


NEUTRAL: Mapping[str, Any] = {
    "skip_special_tokens": True,
    "n": 1,
    "best_of": 1,
    "num_beams": 1,
    "min_p": 0.0,
    "typical_p": 1.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "include_stop_str_in_output": False,
    "stop_token_ids": [],
    "bad_sequences": [],
    "min_length": 1,
    "logprobs": 0,
    "prompt_logprobs": 0,
    "top_n_tokens": 0,
    "truncate": 0,
    "watermark": False,
}
"""Parameters of LMI's back ends and of Text Generation Inference that are accepted at one value: the one that has no
effect. Any other value would need another answer than this server gives.
"""


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
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}", hint=_EXAMPLE) from None
    if not isinstance(content, dict):
        raise UsageError(f"expected a JSON object, found {type(content).__name__}", hint=_EXAMPLE)
    problems = [] if isinstance(content.get("inputs"), str) else ["`inputs` is one text"]
    stream, parameters = content.get("stream"), content.get("parameters") or {}
    stream = False if stream is None else stream
    if not isinstance(stream, bool):
        problems.append("`stream` is true or false")
    if not isinstance(parameters, dict):
        raise UsageError(f"`parameters` takes a JSON object, found {type(parameters).__name__}", hint=_EXAMPLE)
    problems += [f"`{name}` is no field" for name in content if name not in ("inputs", "parameters", "stream")]
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        fits, wanted = _fits(name, value)
        if not fits:
            problems.append(f"`{name}` {wanted}; found {json.dumps(value):.80}")
        elif value is not None and name in _TYPES:
            values[name] = tuple(value) if isinstance(value, list) else value
    if problems:
        raise UsageError("; ".join(problems), hint=_EXAMPLE)
    return Request(content["inputs"], Parameters(**values), stream)


_TYPES = {f.name: f.type for f in fields(Parameters)}


def _fits(name: str, value: Any) -> tuple[bool, str]:
    """Whether a parameter has a value that this server takes, and which values it takes."""
    if name in NEUTRAL:
        neutral = NEUTRAL[name]
        same = value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        return value is None or same, f"is accepted as {json.dumps(neutral)} only, which has no effect"
    if name not in _TYPES:
        return False, f"is no parameter; expected one of {', '.join(_TYPES)}"
    fits, wanted = _CHECKS[_TYPES[name]](value)
    return value is None or fits, f"is {wanted}"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    """Whether the value is a number that float64 holds."""
    if not _whole(value):
        return isinstance(value, float) and math.isfinite(value)
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


_CHECKS: Mapping[Any, Any] = {
    "bool": lambda value: (isinstance(value, bool), "true or false"),
    "int": lambda value: (_whole(value), "a whole number"),
    "int | None": lambda value: (_whole(value), "a whole number"),
    "float": lambda value: (_number(value), "a number"),
    "tuple[str, ...]": lambda value: (_texts(value), "a list of texts"),
    "tuple[str, ...] | bool": lambda value: (_texts(value) or isinstance(value, bool), "a list of texts"),
}
