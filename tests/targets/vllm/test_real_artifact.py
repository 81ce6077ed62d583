"""An artifact that the command line builds with a real vLLM on its CPU platform as it is: dialect J, by torch's key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compiler.artifact.manifest import load_manifest
from compiler.targets.vllm.artifact import section_of
from compiler.targets.vllm.environment import pinned
from compiler.targets.vllm.explain import explain_start, read_report
from compiler.targets.vllm.interpreter import PYTHON
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.reference import MEDIAN
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.server import ServerHost, ServerRun, start
from compiler.targets.vllm.serving import Serving
from tests.command import command
from tests.targets.vllm.real_bakes import MARKS
from tests.tiny import write_checkpoint

pytestmark = MARKS


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact of a model with heads of 32, which vLLM's CPU kernels need."""
    folder = tmp_path_factory.mktemp("artifact")
    model = write_checkpoint("llama", folder / "model", head_dim=32)
    line = ("build", "--model", model, "--target", "vllm", "--device", "cpu", "--weights", "shards", "--tp", "1")
    sizes = ("--max-positions", "256", "--max-batch", "4", "--output", folder / "artifact")
    done = command(*line, *sizes, cache=folder / "cache")
    assert done.code == 0, done.err
    return folder / "artifact"


def test_the_manifest_has_the_proof_and_says_what_was_not_run(artifact: Path) -> None:
    cache = section_of(load_manifest(artifact)).cache
    assert cache is not None
    assert (cache.dialect, cache.key, cache.device, cache.contains_pickle) == ("J", "torch", "cpu", True)
    assert cache.proof.control
    assert cache.proof.counters["fxgraph_cache_hit"] > 0
    assert cache.proof.reference_difference is not None
    assert cache.proof.reference_difference < MEDIAN["bfloat16"]
    assert cache.proof.not_run == ("a container image", "SageMaker", "a GPU")
    assert "not run: a container image, SageMaker, a GPU" in command("inspect", artifact, cache=artifact.parent).out


def test_no_variable_of_vllm_is_in_torchs_key(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("t")  # sockets have short paths
    variables = {"VLLM_ENGINE_READY_TIMEOUT_S": "1200"}
    assert command("explain-miss", artifact, cache=tmp_path, environment=variables).code == 0
    report = read_report(artifact / "bake.json")
    with isolation(artifact, report["serving"]["model"]) as isolated:
        host = ServerHost(os.environ[PYTHON], isolated, (), 600)
        settings = {**pinned("J", "cpu", str(tmp_path / "root"), {}), **variables}
        run = ServerRun("timeout", artifact, tmp_path / "root", settings, artifact)
        start(run, host, Serving(**report["serving"]), tmp_path)
    first, *others = explain_start(report, tmp_path / "timeout" / "record")
    assert first.state == "ok"
    assert [(each.subject, each.state) for each in others] == [("key: VLLM_ENGINE_READY_TIMEOUT_S", "note")]


def test_a_variable_of_torch_is_named(artifact: Path, tmp_path: Path) -> None:
    """The bake's control has shown that this one is a miss."""
    variables = {"TORCHINDUCTOR_CPP_MIN_CHUNK_SIZE": "513"}
    done = command("explain-miss", artifact, "--json", cache=tmp_path, environment=variables)
    assert done.code == 1
    assert [each["subject"] for each in done.json if each["state"] == "mismatch"] == [f"variables: {min(variables)}"]


def test_prewarm_starts_from_the_cache(artifact: Path, tmp_path: Path) -> None:
    done = command("prewarm", artifact, artifact, "--report", tmp_path / "report.json", "--json", cache=tmp_path)
    assert done.code == 0, done.err
    answer = done.json["answer"]
    assert answer["hit"] is True
    assert answer["counters"]["fxgraph_cache_hit"] > 0


def test_generate_gives_the_judges_log_probabilities(artifact: Path, tmp_path: Path) -> None:
    line = ("generate", artifact, "Hello", "a longer prompt", "--max-new-tokens", "8", "--json")
    done = command(*line, cache=tmp_path)
    assert done.code == 0, done.err
    judge = judge_of(artifact, load_manifest(artifact).config, 0)
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    for prompt, answer in zip(("Hello", "a longer prompt"), done.json, strict=True):
        ids = [*tokenizer.encode(prompt).ids, *(token["id"] for token in answer["tokens"])]
        logits = judge.logits(np.asarray(ids, np.int64)).astype(np.float64)
        every = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        every -= logits.max(-1, keepdims=True)
        first = len(ids) - len(answer["tokens"])
        found = [token["log_prob"] - every[first + i - 1, token["id"]] for i, token in enumerate(answer["tokens"])]
        assert np.median(np.abs(found)) < MEDIAN["bfloat16"]


def test_serve_answers_by_vllm_until_it_is_stopped(artifact: Path) -> None:
    line = [sys.executable, "-m", "compiler", "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as served:
        assert served.stdout is not None
        try:
            url = next(line for line in served.stdout if line.startswith("serving ")).split()[-1]
            body = {"prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0, "model": "/opt/ml/model"}
            request = urllib.request.Request(  # noqa: S310  # the server's own address
                f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                assert json.loads(answer.read())["usage"]["completion_tokens"] == 4
        finally:
            served.send_signal(signal.SIGTERM)
        assert served.wait(120) == 0
