"""Bake, proof and relocation with a real vLLM on a CPU, with CUDA's compilation path (cuda_path): about ten minutes.

Run by `scripts/test-vllm`; skipped where LMI_COMPILE_VLLM_PYTHON names no interpreter. Starts take place in namespaces
of their own where these are allowed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.targets.values import Finding
from compiler.targets.vllm import bake
from compiler.targets.vllm.environment import BLOCK_SIZE
from compiler.targets.vllm.explain import explain_start
from compiler.targets.vllm.interpreter import PYTHON
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.proof import judge
from compiler.targets.vllm.server import ServerHost
from compiler.targets.vllm.serving import MODEL_PATH, Serving
from tests.targets.vllm.bakes import TriedBake, bake_in
from tests.tiny import write_checkpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no interpreter with vLLM"),
]
CUDA_PATH = str(Path(__file__).parent / "cuda_path")
SERVING = Serving(1, "bfloat16", 256, 4, 256, BLOCK_SIZE["cpu"], load_format="auto")
FORCE = {"VLLM_FORCE_AOT_LOAD": "1"}


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedBake]:
    """Bake of a model with heads of 32, which vLLM's CPU kernels need. Fails unless the second start is a hit."""
    folder = tmp_path_factory.mktemp("vllm")
    model, out = write_checkpoint("llama", folder / "model", head_dim=32), folder / "out"
    out.mkdir()
    with isolation(model, MODEL_PATH) as isolated:
        host = ServerHost(os.environ[PYTHON], isolated, (CUDA_PATH,), 600)
        yield bake_in(bake.BakeSpec(SERVING, "M", "", "", 250, {}), host, model, folder / "work", out)


def deciding(findings: Sequence[Finding]) -> list[str]:
    return [each.subject for each in findings if each.state == "mismatch" and each.subject != "cache"]


def damaged(baked: TriedBake, name: str) -> Path:
    """Copy of the restored cache of the proof."""
    root = baked.work / f"{name}-root" / "cache"
    shutil.copytree(baked.work / "prove-root" / "cache", root)
    return root


def test_the_second_start_loads_every_artifact(baked: TriedBake) -> None:
    assert baked.verdict.hit
    assert baked.verdict.counters["num_aot_artifacts_loaded"] == 1
    seconds = baked.report["seconds"]
    assert seconds["prove"]["cpu"] < seconds["bake"]["cpu"]


def test_a_timeout_variable_is_a_miss_without_a_warning_that_is_named(baked: TriedBake) -> None:
    start = baked.start("timeout", {"VLLM_ENGINE_READY_TIMEOUT_S": "1200"})
    assert not judge(start, baked.session, "M", 1).hit
    found = explain_start(baked.report, baked.work / "timeout" / "record")
    assert deciding(found) == ["key: VLLM_ENGINE_READY_TIMEOUT_S"]


def test_another_model_path_ends_a_forced_start_and_is_named(baked: TriedBake) -> None:
    elsewhere = replace(baked.host, isolation=replace(baked.host.isolation, model=f"{MODEL_PATH}/"))
    start = replace(baked, host=elsewhere).start("path", FORCE)
    assert start.session["ready"] is None
    found = explain_start(baked.report, baked.work / "path" / "record")
    assert "config.ModelConfig: model" in deciding(found)


def test_a_forced_start_without_kernels_is_a_false_hit_that_is_found_out(baked: TriedBake) -> None:
    root = damaged(baked, "kernels")
    for folder in root.rglob("inductor_cache"):
        shutil.rmtree(folder)
    start = baked.start("kernels", {**FORCE, "LMI_BOOT_ARTIFACT": str(baked.model)}, root=root)
    verdict = judge(start, baked.session, "M", 1)
    assert verdict.counters["num_aot_artifacts_loaded"] == 1
    assert not verdict.hit
    assert any("new file(s) in root" in reason for reason in verdict.reasons)
    assert any("run(s) of a compiler" in reason for reason in verdict.reasons)


def test_a_damaged_artifact_ends_a_forced_start(baked: TriedBake) -> None:
    root = damaged(baked, "damaged")
    model = next(path for path in root.rglob("model") if path.is_file())
    data = bytearray(model.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes([255]) * 64
    model.write_bytes(bytes(data))
    start = baked.start("damaged", {**FORCE, "LMI_BOOT_ARTIFACT": str(baked.model)}, root=root)
    assert not judge(start, baked.session, "M", 1).hit
