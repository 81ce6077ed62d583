"""LMI's contract by release: parameters, defaults, forms of answers. Forms are also held to djl-serving's own code
(tests/lmi/test_djl_serving.py).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from compiler.errors import UsageError
from compiler.lmi.contract import CONTRACTS, DEFAULT, contract_of
from compiler.runtime.params import GenerationParams
from compiler.serve.contract.lmi import read_inputs
from compiler.serve.contract.parameters import KNOWN
from tests.serve.running import Served, served


def _params(version: str | None, parameters: dict[str, Any], backend: str = "trtllm") -> GenerationParams:
    return read_inputs({"inputs": "a", "parameters": parameters}, contract_of(version, backend)).params[0]


@pytest.mark.parametrize(
    ("version", "backend", "given", "expected"),
    [
        # (max_new_tokens, temperature, top_k, top_p); temperature 0 is greedy
        ("0.26", "trtllm", {}, (128, 0.0, 0, 1.0)),
        ("0.26", "trtllm", {"do_sample": True}, (128, 0.8, 5, 0.85)),
        ("0.30", "trtllm", {"do_sample": True, "top_k": 3}, (30, 0.8, 3, 0.85)),
        ("0.30", "trtllm", {"do_sample": True, "temperature": 0.5, "top_p": 0.9}, (30, 0.5, 5, 0.9)),
        ("0.30", "trtllm", {"top_k": 50}, (30, 1.0, 50, 1.0)),
        ("0.30", "trtllm", {"temperature": 0.5}, (30, 0.0, 0, 1.0)),
        ("0.26", "vllm", {}, (16, 1.0, 0, 1.0)),
        ("0.30", "vllm", {"temperature": 0.5}, (30, 0.0, 0, 1.0)),
        ("0.30", "vllm", {"temperature": 0.5, "do_sample": True}, (30, 0.5, 0, 1.0)),
        ("0.32", "vllm", {"temperature": 0.5}, (30, 0.5, 0, 1.0)),
        ("0.32", "vllm", {"temperature": 0.5, "do_sample": False}, (30, 0.0, 0, 1.0)),
        ("0.33", "vllm", {}, (30, 1.0, 0, 1.0)),
        ("0.33", "trtllm", {"do_sample": False}, (30, 0.0, 0, 1.0)),
        (None, "trtllm", {"top_k": 50, "temperature": 0.5}, (30, 0.0, 0, 1.0)),
        (None, "trtllm", {"do_sample": True, "top_k": -1}, (30, 1.0, 0, 1.0)),
    ],
)
def test_sampling_and_defaults_are_those_of_the_release(
    version: str | None, backend: str, given: dict[str, Any], expected: tuple[float, ...]
) -> None:
    found = _params(version, given, backend)
    assert (found.max_new_tokens, found.temperature, found.top_k, found.top_p) == expected


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("contract", [DEFAULT, *CONTRACTS.values()], ids=range(len(CONTRACTS) + 1))
def test_every_documented_parameter_may_be_null(contract: Any, name: str) -> None:
    asked = read_inputs({"inputs": "a", "parameters": {name: None}}, contract)
    assert (
        asked == read_inputs({"inputs": "a"}, contract) or asked.params == read_inputs({"inputs": "a"}, contract).params
    )


def test_unknown_parameters_are_ignored_where_the_release_ignores_them() -> None:
    body = {"inputs": "a", "parameters": {"max_tokens": 3, "length_penalty": 2.0}}
    assert read_inputs(body, contract_of("0.30")).ignored == ("max_tokens", "length_penalty")
    for version in (None, "0.26", "0.33"):
        with pytest.raises(UsageError, match="`max_tokens` is no parameter"):
            read_inputs(body, contract_of(version))


def test_parameters_that_need_another_decoding_are_refused() -> None:
    for name, value in {"num_beams": 2, "typical_p": 0.5, "watermark": True, "bad_sequences": ["x"]}.items():
        with pytest.raises(UsageError, match=f"`{name}` is accepted as"):
            _params("0.30", {name: value})


@pytest.mark.parametrize(
    ("version", "backend", "formatter"), [("0.25", "trtllm", None), ("0.33", "tgi", None), ("0.30", "vllm", "xml")]
)
def test_unknown_releases_backends_and_formatters_are_refused(
    version: str, backend: str, formatter: str | None
) -> None:
    with pytest.raises(UsageError):
        contract_of(version, backend, formatter)


def _post(server: Served, body: dict[str, Any]) -> tuple[int, str, list[Any]]:
    status, kind, answer = server.post(body)
    lines = [line.removeprefix(b"data: ") for line in answer.splitlines() if line]
    return status, kind, [json.loads(line) for line in lines if line != b"[DONE]"]


def test_at_0_26_every_answer_is_a_stream_without_falsy_values() -> None:
    with served(contract=contract_of("0.26")) as server:
        status, kind, lines = _post(server, {"inputs": "ab", "parameters": {"details": True}})
    assert (status, kind) == (200, "application/jsonlines")
    assert [line["token"].get("text") for line in lines] == ["a", "b", None]
    assert set(lines[-1]["token"]) == {"id", "log_prob", "special_token"}
    assert (lines[-1]["generated_text"], lines[-1]["details"]) == ("ab", {"finish_reason": "eos_token"})


def test_at_0_33_answers_are_those_of_the_async_handlers() -> None:
    with served(contract=contract_of("0.33", "vllm")) as server:
        asked = {"inputs": "ab", "parameters": {"details": True, "do_sample": False}}
        whole = _post(server, asked)[2][0]
        lines = _post(server, asked | {"stream": True})[2]
    assert [set(token) for token in whole["details"]["tokens"]] == [{"id", "text", "logprob"}] * 3
    assert (whole["details"]["finish_reason"], whole["details"]["generated_tokens"]) == (None, 3)
    assert lines[0] | {"index": 0, "generated_text": None, "details": None} == lines[0]
    assert lines[-1]["details"] == {"finish_reason": "stop", "seed": None, "generated_tokens": 4, "input_length": 3}


def test_server_sent_events_and_compatibility_with_text_generation_inference() -> None:
    with served(contract=contract_of("0.30", formatter="json", tgi=True)) as server:
        whole = _post(server, {"inputs": "ab"})[2][0]
        assert whole[0]["generated_text"] == "ab"
        assert set(whole[0]["details"]["tokens"][0]) == {"id", "text", "logprob"}
    with served(contract=contract_of("0.30", tgi=True)) as server:
        _, kind, lines = _post(server, {"inputs": "ab"})
        assert kind == "text/event-stream"
        assert lines[-1]["generated_text"] == "ab"


def test_an_error_is_its_message_and_its_hint_in_two_sentences() -> None:
    with served() as server:
        told = json.loads(server.post({"inputs": "a" * 200})[2])["message"]
    assert "are 202. Shorten the prompt" in told


def test_a_violated_schema_is_424_at_a_release() -> None:
    with served(contract=contract_of("0.30")) as server:
        status, _, body = server.post({"inputs": 3})
        assert (status, set(json.loads(body))) == (424, {"code", "error"})
        assert server.post({"inputs": "a" * 200})[0] == 400


def test_several_texts_and_several_sequences() -> None:
    with served() as server:
        answers = _post(server, {"inputs": ["ab", "c"], "parameters": {"n": 2, "details": True}})[2][0]
    assert [answer["generated_text"] for answer in answers] == ["ab", "c"]
    assert [len(answer["details"]["best_of_sequences"]) for answer in answers] == [1, 1]


def test_a_seed_gives_each_sequence_its_own() -> None:
    body = {"inputs": ["a", "b"], "parameters": {"n": 2, "seed": 7, "do_sample": True}}
    assert [params.seed for params in read_inputs(body, DEFAULT).params] == [7, 8, 7, 8]


def test_parameters_that_change_the_text() -> None:
    with served() as server:

        def text(**parameters: Any) -> str:
            return server.ask("abcabc", **parameters)

        assert text(stop=["c"]) == "ab"
        assert text(stop_sequences=["ca"], include_stop_str_in_output=True) == "abca"
        assert text(stop_token_ids=[ord("c")]) == "ab"
        assert text(truncate=3) == "bc"
        assert text(skip_special_tokens=False) == "abcabc<end>"
        details = json.loads(
            server.post(
                {"inputs": "ab", "parameters": {"details": True, "decoder_input_details": True, "top_n_tokens": 2}}
            )[2]
        )["details"]
    assert [token["text"] for token in details["prefill"]] == ["a", "b", "<ask>"]
    assert details["prefill"][0]["log_prob"] is None
    assert [next(token["text"] for token in top) for top in details["top_tokens"]] == ["a", "b", "<end>"]


def test_chat_and_text_completions() -> None:
    def render(messages: Any) -> str:
        return "".join(f"{one['role'][0]}:{one['content']};" for one in messages)

    with served(render=render) as server:
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "temperature": 0}
        for path in ("/v1/chat/completions", "/invocations"):
            status, _, body = server.post(chat, path)
            told = json.loads(body)
            assert status == 200
            assert told["choices"][0]["message"] == {"role": "assistant", "content": "u:hi;"}
            assert told["choices"][0]["finish_reason"] == "stop"
            assert told["usage"] == {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}
        lines = _post(server, chat | {"stream": True, "logprobs": True, "top_logprobs": 1})[2]
        assert "".join(line["choices"][0]["delta"].get("content", "") for line in lines) == "u:hi;"
        assert lines[0]["choices"][0]["delta"]["role"] == "assistant"
        assert lines[0]["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["token"] == "u"
        status, _, body = server.post({"prompt": "ab", "echo": True, "n": 2, "temperature": 0}, "/v1/completions")
        assert [choice["text"] for choice in json.loads(body)["choices"]] == ["abab", "abab"]
        parts = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
        assert (
            json.loads(server.post({"messages": parts, "temperature": 0})[2])["choices"][0]["message"]["content"]
            == "u:x;"
        )
        assert server.post({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})[0] == 400
