"""Bodies of requests as clients send them, to a real server in front of a tiny model."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compiler.runtime.generate import Model
from compiler.tokenizer.load import load_tokenizer
from tests.cases.case import case
from tests.cases.checkpoints import write
from tests.runtime.eager import LIMITS, engine
from tests.serve.running import Served, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Server that computes a tiny checkpoint without compiled packages."""
    model = write(folder / "model")
    with serving(lambda: Model(engine(model), LIMITS, 259, load_tokenizer(model), frozenset({257}))) as made:
        yield made


def _post(server: Served, body: Any) -> tuple[int, Any]:
    """Status and JSON body of the answer to a POST; `body`: bytes as they are, anything else as JSON."""
    status, _, answer = server.post(body)
    return status, json.loads(answer.splitlines()[-1])


def _healthy(server: Served) -> bool:
    """Whether the server answers /ping with 200 and a prompt with text."""
    answered = _post(server, {"inputs": "a", "parameters": {"max_new_tokens": 1}})
    return server.get("/ping")[0] == 200 and answered[0] == 200


@case(1, "prompts with half of a character; the server answers the next request")
def half_an_emoji(folder: Path) -> None:
    """Every place of a text, escaped as JSON escapes it and as the bytes of CESU-8."""
    bodies: list[Any] = [
        b'{"inputs":"\\ud83d"}',
        b'{"inputs":"good \\ude00 text"}',
        b'{"inputs":"\xed\xa0\xbd"}',
        b'{"inputs":"\xff"}',
    ]
    with served(folder) as client:
        for body in bodies:
            status, answer = _post(client, body)
            assert status == 400, (body, status, answer)
            assert _healthy(client), body
        for stop in ("\ud83d", "\U0001f600"):
            status, answer = _post(
                client, {"inputs": "a", "parameters": {"stop_sequences": [stop], "max_new_tokens": 2}}
            )
            assert status in (200, 400), (stop, answer)
            assert _healthy(client), stop
        assert _post(client, {"inputs": "\U0001f600", "parameters": {"max_new_tokens": 2}})[0] == 200


@case(103, "parameters that are null, and parameters that LMI's documentation lists")
def documented_parameters(folder: Path) -> None:
    """Each is accepted where it has no effect or the effect is computed, and refused by name where it would be lost."""
    accepted: list[dict[str, Any]] = [
        dict.fromkeys(("seed", "top_k", "top_p", "temperature", "repetition_penalty", "stop_sequences", "stop")),
        dict.fromkeys(("do_sample", "details", "return_full_text", "max_new_tokens", "typical_p", "truncate")),
        {"do_sample": True, "top_k": -1, "seed": 1},
        {"stop": ["\n"]},
        {"stop": False},
        {"decoder_input_details": True, "details": True},
        {"ignore_eos_token": True},
        {"skip_special_tokens": True, "spaces_between_special_tokens": False},
        {"frequency_penalty": 0.5, "presence_penalty": -0.5},
        {"n": 1, "best_of": 1, "num_beams": 1, "length_penalty": 1, "early_stopping": False, "watermark": False},
        {"min_length": 1, "stop_token_ids": [], "logprobs": None, "min_p": 0},
        {"skip_special_tokens": False, "include_stop_str_in_output": True},
        {"n": 2},
        {"stop_token_ids": [5]},
        {"min_length": 9},
    ]
    refused: list[dict[str, Any]] = [{"num_beams": 4}, {"typical_p": 0.5}, {"watermark": True}, {"n": 0}, {"n": 999}]
    with served(folder) as client:
        for parameters in accepted:
            status, answer = _post(client, {"inputs": "a b", "parameters": {"max_new_tokens": 4, **parameters}})
            assert status == 200, (parameters, answer)
        for parameters in refused:
            status, answer = _post(client, {"inputs": "a b", "parameters": parameters})
            assert status == 400, parameters
            assert f"`{next(iter(parameters))}`" in answer["message"], answer
        whole = _post(client, {"inputs": "a b", "parameters": {"max_new_tokens": 12}})[1]["generated_text"]
        cut = _post(client, {"inputs": "a b", "parameters": {"max_new_tokens": 12, "stop": [whole[2]]}})[1]
        assert cut["generated_text"] == whole[: whole.index(whole[2])], (whole, cut)


@case(104, "inputs as a list, messages, prompt")
def other_schemas(folder: Path) -> None:
    """A list is answered as a list, `prompt` as OpenAI's API does, `messages` needs a chat template."""
    with served(folder) as client:
        status, answer = _post(client, {"inputs": ["a", "b"], "parameters": {"max_new_tokens": 2}})
        assert (status, len(answer)) == (200, 2), answer
        alone = [_post(client, {"inputs": text, "parameters": {"max_new_tokens": 2}})[1] for text in ("a", "b")]
        assert answer == alone
        assert _post(client, {"prompt": "a", "max_tokens": 2})[1]["choices"][0]["finish_reason"] == "length"
        status, answer = _post(client, {"messages": [{"role": "user", "content": "a"}]})
        assert status == 400
        assert "no chat template" in answer["message"]


@case(105, "a long prompt, NaN, Infinity, huge numbers, empty stop sequences, seeds")
def extreme_values(folder: Path) -> None:
    """Each value gets an answer or a 400, and the server goes on."""
    huge = "9" * 400
    numbers = ("NaN", "Infinity", "-Infinity", "1e999", huge, f"-{huge}", "9" * 5000, "0", "-0.0", "1e-320", "-1")
    names = ("temperature", "top_p", "top_k", "seed", "max_new_tokens", "repetition_penalty", "frequency_penalty")
    with served(folder) as client:
        for name in names:
            for number in numbers:
                body = (
                    f'{{"inputs": "a", "parameters": {{"do_sample": true, "max_new_tokens": 2, "{name}": {number}}}}}'
                )
                status, answer = _post(client, body.encode())
                assert status in (200, 400), (name, number[:20], status, answer)
        for whole in ({"inputs": "a" * (1 << 20)}, {"inputs": ""}, {"inputs": "a", "parameters": {"stop": [""]}}):
            assert _post(client, whole)[0] in (200, 400)
        assert _healthy(client)


@case(106, "100000 nested brackets")
def nested_brackets(folder: Path) -> None:
    """A body that nests too deeply is a bad request, wherever the nesting is."""
    deep = b"[" * 100_000
    with served(folder) as client:
        for body in (deep, b'{"inputs":' + deep, b'{"a":' * 100_000, deep + b"]" * 100_000):
            status, answer = _post(client, body)
            assert status == 400, body[:20]
            assert "not JSON" in answer["message"]
        assert _healthy(client)
