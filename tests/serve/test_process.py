"""The command in a process of its own, with a really compiled artifact."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compiler.runtime.generate import load
from compiler.runtime.params import GenerationParams
from tests import reference

PROMPTS = ["x", "a prompt that is longer", "sixteen letters!"]


@pytest.fixture(scope="module")
def artifact(tiny_artifact: Callable[[str, int], Path]) -> Path:
    return tiny_artifact("mixtral", 2)


@pytest.fixture
def server(artifact: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address."""
    command = [sys.executable, "-m", "compiler", "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " on http://" in line, process.stderr.read() if process.stderr else ""
        yield process, line.split()[-1]
        process.kill()


def _ask(url: str, prompt: str, parameters: dict[str, Any], *, stream: bool = False) -> Any:
    body = json.dumps({"inputs": prompt, "parameters": parameters, "stream": stream}).encode()
    return urllib.request.urlopen(urllib.request.Request(f"{url}/invocations", body))  # noqa: S310 - our own server


def test_answers_are_those_of_the_model_and_sigterm_ends_it(
    server: tuple[subprocess.Popen[str], str], artifact: Path
) -> None:
    process, url = server
    with urllib.request.urlopen(f"{url}/ping") as ping:  # noqa: S310
        assert ping.status == 200
    parameters = {"max_new_tokens": 12, "details": True}

    def whole(prompt: str) -> Any:
        with _ask(url, prompt, parameters) as answer:
            return json.load(answer)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(whole, PROMPTS))
    with _ask(url, PROMPTS[1], parameters, stream=True) as answer:
        lines = [json.loads(line) for line in answer]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0

    with load(artifact) as model:
        expected = model.generate(PROMPTS, GenerationParams(max_new_tokens=12))
    for told, completion in zip(answers, expected, strict=True):
        assert [token["id"] for token in told["details"]["tokens"]] == [token.id for token in completion.tokens]
        assert told["generated_text"] == completion.text
        assert told["details"]["finish_reason"] == completion.finish_reason
    assert "".join(line["token"]["text"] for line in lines) == expected[1].text
    assert lines[-1]["generated_text"] == expected[1].text


def test_log_probabilities_are_those_of_transformers(
    server: tuple[subprocess.Popen[str], str], tiny_checkpoint: Callable[[str], Path]
) -> None:
    import torch

    _, url = server
    parameters = {"max_new_tokens": 24, "details": True, "decoder_input_details": True}

    def whole(prompt: str) -> Any:
        with _ask(url, prompt, parameters) as answer:
            return json.load(answer)["details"]

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(whole, PROMPTS))
    for told in answers:
        ids = [token["id"] for part in ("prefill", "tokens") for token in told[part]]
        logits = reference.logits(tiny_checkpoint("mixtral"), torch.tensor([ids]))[0].log_softmax(-1)
        made = len(told["tokens"])
        expected = logits[-made - 1 : -1].gather(-1, torch.tensor(ids[-made:])[:, None])[:, 0].tolist()
        assert [token["log_prob"] for token in told["tokens"]] == pytest.approx(expected, abs=1e-3)


def test_a_request_in_flight_at_sigterm_is_answered(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    with _ask(url, "x", {"max_new_tokens": 100}, stream=True) as answer:
        first = answer.readline()
        process.send_signal(signal.SIGTERM)
        *_, last = [json.loads(line) for line in (first, *answer)]
    assert process.wait(60) == 0
    assert "generated_text" in last
    assert "error_msg" not in last["token"]
