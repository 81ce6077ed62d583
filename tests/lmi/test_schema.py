"""What is written is what LMI 0.29's formatters wrote for the same tokens; requests are read whole or refused."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import UsageError
from compiler.lmi.schema import (
    NEUTRAL,
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

TOKENS = (AnswerToken(5, " a", -0.5), AnswerToken(0, "", 0.0), AnswerToken(7, "", -1.5, special=True))
WHOLE = Answer(" a", Details("eos_token", 3, "p", TOKENS))
LAST = Answer(" a", Details("eos_token", 3, "p"))
STREAM = (StreamLine(TOKENS[0]), StreamLine(TOKENS[1]), StreamLine(TOKENS[2], LAST))

# As `_json_output_formatter` and `_jsonlines_output_formatter` at v0.29.0 wrote them, run on these tokens.
WHOLE_0_29 = (
    '{"generated_text": " a", "details": {"finish_reason": "eos_token", "generated_tokens": 3, "inputs": "p", '
    '"tokens": [{"id": 5, "text": " a", "log_prob": -0.5}, {"id": 0, "text": "", "log_prob": 0.0}, '
    '{"id": 7, "text": "", "log_prob": -1.5, "special_token": true}]}}'
)
STREAM_0_29 = (
    '{"token": {"id": 5, "text": " a", "log_prob": -0.5}}\n',
    '{"token": {"id": 0, "text": "", "log_prob": 0.0}}\n',
    (
        '{"token": {"id": 7, "text": "", "log_prob": -1.5, "special_token": true}, "generated_text": " a", '
        '"details": {"finish_reason": "eos_token", "generated_tokens": 3, "inputs": "p"}}\n'
    ),
)


def test_the_spelling_of_0_29() -> None:
    assert dump(WHOLE).decode() == WHOLE_0_29
    assert tuple(dump(line).decode() for line in STREAM) == STREAM_0_29
    assert dump(Answer("caf\xe9")).decode() == '{"generated_text": "caf\xe9"}'


def test_a_stream_that_an_error_ended() -> None:
    line = failed_line("rank 1 ended", "so far")
    assert json.loads(dump(line)) == {
        "token": {"id": -1, "text": "", "log_prob": -1.0, "special_token": True, "error_msg": "rank 1 ended"},
        "generated_text": "so far",
        "details": {"finish_reason": "error"},
    }


PARAMETERS = st.builds(
    Parameters,
    do_sample=st.booleans(),
    seed=st.none() | st.integers(0),
    temperature=st.floats(0, 4),
    top_k=st.integers(0),
    top_p=st.floats(0.1, 1),
    max_new_tokens=st.integers(1),
    details=st.booleans(),
    return_full_text=st.booleans(),
    stop_sequences=st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
)


@given(st.builds(Request, st.text(st.characters(codec="utf-8")), PARAMETERS, st.booleans()))
def test_a_request_is_read_as_it_was_written(request: Request) -> None:
    assert parse_request(json.dumps(request.to_json()).encode()) == request


def test_everything_that_is_wrong_is_said_at_once() -> None:
    body = {"inputs": 1, "stream": 0, "parametres": {}, "parameters": {"top_k": True, "stop_sequences": "a"}}
    with pytest.raises(UsageError) as caught:
        parse_request(json.dumps(body).encode())
    assert caught.value.message.split("; ") == [
        "`inputs` is one text",
        "`stream` is true or false",
        "`parametres` is no field",
        "`top_k` is a whole number",
        "found true",
        "`stop_sequences` is a list of texts",
        'found "a"',
    ]


@pytest.mark.parametrize("name", [*NEUTRAL, *(f.name for f in fields(Parameters))])
def test_a_parameter_that_is_null_has_its_default(name: str) -> None:
    assert parse_request(json.dumps({"inputs": "a", "parameters": {name: None}}).encode()) == Request("a")


@pytest.mark.parametrize(("name", "value"), NEUTRAL.items())
def test_a_parameter_that_nothing_computes_is_accepted_without_effect_only(name: str, value: Any) -> None:
    assert parse_request(json.dumps({"inputs": "a", "parameters": {name: value}}).encode()) == Request("a")
    other = not value if isinstance(value, bool) else [1] if isinstance(value, list) else value + 3
    for wrong in (other, "text"):
        with pytest.raises(UsageError, match=f"`{name}` is accepted as"):
            parse_request(json.dumps({"inputs": "a", "parameters": {name: wrong}}).encode())


def test_defaults_are_those_of_lmi() -> None:
    assert parse_request(b'{"inputs": "a"}') == Request("a")
    assert (Parameters().max_new_tokens, Parameters().do_sample, Parameters().top_p) == (30, False, 1.0)
    assert parse_request(b'{"inputs": "a", "parameters": null}') == Request("a")
