"""OpenAPI description of the server's routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.lmi.contract import JSON
from compiler.serve.contract.parameters import KNOWN, ONLY, RANGES

if TYPE_CHECKING:
    from compiler.lmi.contract import Contract

_KINDS: dict[str, dict[str, Any]] = {
    "true or false": {"type": "boolean"},
    "a whole number": {"type": "integer"},
    "a number": {"type": "number"},
    "a list of texts": {"type": "array", "items": {"type": "string"}},
    "a list of token ids": {"type": "array", "items": {"type": "integer"}},
    "a whole number, or true or false": {"type": ["integer", "boolean"]},
    "a list of texts, or true or false": {"type": ["array", "boolean", "string"], "items": {"type": "string"}},
}
_RANGES: dict[str, dict[str, Any]] = {
    **{one: {"minimum": low} | ({} if high is None else {"maximum": high}) for one, (low, high) in RANGES.items()},
    **{one: {"minimum": -2, "maximum": 2} for one in ("presence_penalty", "frequency_penalty")},
    "max_new_tokens": {"minimum": 1},
    "min_p": {"minimum": 0},
    "repetition_penalty": {"minimum": 0.001, "maximum": 1000},
    "seed": {"minimum": 0},
    "temperature": {"minimum": 0},
    "top_k": {"minimum": -1},
    "top_p": {"minimum": 0, "maximum": 1},
}
_ERROR = {"type": "object", "required": ["code"], "properties": {"code": {"type": "integer"}}}
_STATUSES = {
    "400": "The body violates the contract, or exceeds the artifact's limits.",
    "405": "The route has another method.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "424": "The body violates the schema of the LMI release.",
    "500": "The model failed.",
    "503": "The queue is full, or the server is stopping.",
}


def openapi(name: str, contract: Contract, most: int) -> dict[str, Any]:
    """Description of the routes of the model `name`. `most`: positions of a row."""
    described = {one: _KINDS[kind] | _RANGES.get(one, {}) for one, kind in KNOWN.items()}
    described |= {one: {"const": value} for one, value in ONLY.items()}
    described["max_new_tokens"] |= {"maximum": most}
    nullable = {one: {"anyOf": [schema, {"type": "null"}]} for one, schema in described.items()}
    parameters: dict[str, Any] = {"type": ["object", "null"], "properties": nullable}
    if contract.unknown == "refused":
        parameters["additionalProperties"] = False
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    inputs: dict[str, Any] = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": {"anyOf": [{"type": "string"}, texts]},
            "parameters": parameters,
            "stream": {"type": ["boolean", "null"]},
        },
    }
    if contract.unknown == "refused":
        inputs["additionalProperties"] = False
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    }
    common = {
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": most},
        "temperature": {"type": ["number", "null"], "minimum": 0},
        "stream": {"type": ["boolean", "null"]},
    }
    chat = {
        "type": "object",
        "required": ["messages"],
        "properties": {"messages": {"type": "array", "items": message, "minItems": 1}, **common},
    }
    text = {
        "type": "object",
        "required": ["prompt"],
        "properties": {"prompt": {"anyOf": [{"type": "string"}, texts]}, **common},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"lmi-compile serve: {name}", "version": contract.version},
        "paths": {
            "/ping": {"get": _get("Whether the model can answer.", {"500": "The model failed."})},
            "/health": {"get": _get("State of the queue and the batch.", {"503": "The model failed."})},
            "/metrics": {"get": _get("Metrics for Prometheus.", {}, "text/plain")},
            "/invocations": {"post": _post("Generate text.", {"anyOf": [inputs, chat, text]})},
            f"/predictions/{name}": {"post": _post("Generate text.", inputs)},
            f"/models/{name}/invoke": {"post": _post("Generate text.", inputs)},
            "/v1/chat/completions": {"post": _post("Answer a chat.", chat)},
            "/v1/completions": {"post": _post("Complete a text.", text)},
        },
    }


def _get(summary: str, errors: dict[str, str], kind: str = JSON) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {}}}, **_errors(errors)},
    }


def _post(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    streams: dict[str, Any] = {kind: {} for kind in ("application/jsonlines", "text/event-stream")}
    answers = {JSON: {"schema": {"type": ["object", "array"]}}, **streams}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
        "responses": {"200": {"description": "The answer.", "content": answers}, **_errors(_STATUSES)},
    }


def _errors(statuses: dict[str, str]) -> dict[str, Any]:
    return {status: {"description": text, "content": {JSON: {"schema": _ERROR}}} for status, text in statuses.items()}
