"""A reader of protobuf's text format, as far as config.pbtxt uses it: messages, lists, strings, numbers, words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(r'\s+|#[^\n]*|(?P<token>"[^"\n]*"|[{}\[\]:,]|[-\w.]+)')

Message = dict[str, list[Any]]
"""Field -> all its values, in order; a list counts as so many values."""


def parse(text: str) -> Message:
    tokens = list(_tokens(text))
    message, rest = _message(tokens, end=None)
    assert not rest
    return message


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, f"unexpected {text[at : at + 20]!r}"
        if match["token"]:
            yield match["token"]
        at = match.end()


def _message(tokens: list[str], end: str | None) -> tuple[Message, list[str]]:
    message: Message = {}
    while tokens and tokens[0] != end:
        name, *tokens = tokens
        assert re.fullmatch(r"\w+", name), name
        colon = tokens[0] == ":"
        tokens = tokens[1:] if colon else tokens
        assert colon or tokens[0] in "{[", f"a scalar field needs a colon: {name}"
        values, tokens = _list(tokens[1:]) if tokens[0] == "[" else _one(tokens)
        message.setdefault(name, []).extend(values)
    assert end is None or tokens, f"no {end}"
    return message, tokens[1:] if end else tokens


def _list(tokens: list[str]) -> tuple[list[Any], list[str]]:
    values: list[Any] = []
    while tokens[0] != "]":
        found, tokens = _one(tokens)
        values += found
        assert tokens[0] in ",]", tokens[0]
        if tokens[0] == ",":
            tokens = tokens[1:]
            assert tokens[0] != "]", "a comma before the end of a list"
    return values, tokens[1:]


def _one(tokens: list[str]) -> tuple[list[Any], list[str]]:
    head, *tokens = tokens
    if head == "{":
        message, tokens = _message(tokens, "}")
        return [message], tokens
    return [int(head) if re.fullmatch(r"-?\d+", head) else head.strip('"')], tokens
