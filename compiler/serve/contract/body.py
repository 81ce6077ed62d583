"""JSON of requests within bounds, checks of values, and JSON of answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from compiler.errors import UsageError

_MOST_PROBLEMS = 5
_MOST_SHOWN = 80

Check = Callable[[Any], bool]


def parse_object(body: bytes, hint: str) -> dict[str, Any]:
    """JSON object of a body. Raises UsageError, also for JSON that is nested too deeply or has too large a number."""
    try:
        content = json.loads(body)
    except RecursionError:
        raise UsageError("the request is not JSON that can be read: it is nested too deeply", hint=hint) from None
    except ValueError as error:
        raise UsageError(f"the request is not JSON: {error}", hint=hint) from None
    if not isinstance(content, dict):
        raise UsageError(f"expected a JSON object, found {type(content).__name__}", hint=hint)
    return content


def is_text(value: Any) -> bool:
    """Whether the value is text that UTF-8 can encode: no half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether the value is a finite number that float64 holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_whole(value: Any) -> bool:
    """Whether the value is a whole number of 64 bits; 3.0 is one, as in JSON Schema."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and abs(value) < 1 << 63


def normal(value: Any, kind: str) -> Any:
    """Value of a kind as Python's type for it."""
    return int(value) if kind == "a whole number" else value


KINDS: Mapping[str, Check] = {
    "true or false": lambda value: isinstance(value, bool),
    "a whole number": is_whole,
    "a number": is_number,
    "a text": is_text,
    "a list of texts": lambda value: isinstance(value, list) and all(map(is_text, value)),
    "a text or a list of texts": lambda value: (
        is_text(value) or (isinstance(value, list) and bool(value) and all(map(is_text, value)))
    ),
    "a list of token ids": lambda value: isinstance(value, list) and all(map(is_whole, value)),
    "a whole number, or true or false": lambda value: isinstance(value, bool) or is_whole(value),
    "a list of texts, or true or false": lambda value: (
        isinstance(value, bool) or is_text(value) or (isinstance(value, list) and all(map(is_text, value)))
    ),
}
"""Check of each kind of value, by its name in error messages."""


def shown(value: Any) -> str:
    """Beginning of a value as JSON, for a message."""
    if isinstance(value, list | dict) and len(value) > _MOST_PROBLEMS:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value) if isinstance(value, int) and abs(value) > 1 << 63 else json.dumps(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def refuse(problems: list[str], hint: str) -> None:
    """Raise UsageError with the first problems, if there are any."""
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise UsageError("; ".join(one[:300] for one in problems[:_MOST_PROBLEMS]) + more, hint=hint)


def dump(value: object) -> bytes:
    """UTF-8 JSON. Half of a surrogate pair, which Python allows in text, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def event(value: object) -> bytes:
    """One server-sent event with JSON."""
    return b"data: " + dump(value) + b"\n\n"
