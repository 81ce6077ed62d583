"""Bake and proof of shards for two ranks with a real vLLM on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

import recipes
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.targets.vllm import bake
from compiler.targets.vllm.interpreter import PYTHON
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.reference import MEDIAN
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.server import ServerHost
from compiler.targets.vllm.serving import MODEL_PATH
from tests.targets.vllm.bakes import TriedBake, bake_in
from tests.targets.vllm.real_bakes import CUDA_PATH, MARKS, SERVING
from tests.tiny import model_config, write_checkpoint

pytestmark = MARKS
NODES = {"VLLM_CPU_SIM_MULTI_NUMA": "1"}
"""Variables with which vLLM puts two ranks on a machine with one NUMA node."""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedBake]:
    """Bake of shards for two ranks, each in a process of its own."""
    folder = tmp_path_factory.mktemp("ranks")
    model, out = write_checkpoint("llama", folder / "model", head_dim=32), folder / "out"
    out.mkdir()
    request = BuildRequest(
        model=str(model),
        recipes=recipes,
        target="vllm",
        ask=Ask(tp=2, options=VllmOptions(weights="shards")),
        output=folder / "shards",
        cache=folder / "cache",
        until="judge",
    )
    build(request)
    serving = replace(SERVING, tp=2, load_format="sharded_state")
    reference = judge_of(folder / "shards", model_config("llama", head_dim=32), 0).logits
    with isolation(folder / "shards", MODEL_PATH) as isolated:
        host = ServerHost(os.environ[PYTHON], isolated, (CUDA_PATH,), 600)
        spec = bake.BakeSpec(serving, "M", "", "", 250, NODES)
        yield bake_in(spec, host, folder / "shards", folder / "work", out, reference)


def test_two_ranks_load_their_artifacts_and_shards(two_ranks: TriedBake) -> None:
    assert two_ranks.verdict.hit
    counters = two_ranks.verdict.counters
    assert (counters["num_models_seen"], counters["num_aot_artifacts_loaded"]) == (2, 2)
    ranks = {
        file["path"].rpartition("/rank_")[2] for file in two_ranks.report["files"] if file["path"].endswith("/model")
    }
    assert ranks == {"0_0/model", "1_0/model"}
    assert two_ranks.report["proof"]["reference_difference"] < MEDIAN["bfloat16"]


def test_a_server_with_one_rank_refuses_the_shards_of_two(two_ranks: TriedBake) -> None:
    start = two_ranks.start("one", {}, serving=replace(two_ranks.spec.serving, tp=1))
    assert start.session["ready"] is None
    assert "shards for tp 2" in (two_ranks.work / "one" / "server.log").read_text()
