"""Bake, proof and relocation with a real vLLM on a CPU, with CUDA's compilation path (cuda_path): about half an hour.

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

import recipes
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.targets.values import Finding
from compiler.targets.vllm import bake
from compiler.targets.vllm.environment import BLOCK_SIZE
from compiler.targets.vllm.explain import explain_start
from compiler.targets.vllm.factors import keyed_by
from compiler.targets.vllm.interpreter import PYTHON
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.proof import judge
from compiler.targets.vllm.reference import MEDIAN
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.server import ServerHost
from compiler.targets.vllm.serving import MODEL_PATH, Serving
from tests.targets.vllm.bakes import TriedBake, bake_in
from tests.tiny import model_config, write_checkpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no interpreter with vLLM"),
]
CUDA_PATH = str(Path(__file__).parent / "cuda_path")
SERVING = Serving(1, "bfloat16", 256, 4, 256, BLOCK_SIZE["cpu"], load_format="auto")
NODES = {"VLLM_CPU_SIM_MULTI_NUMA": "1"}
"""Variables with which vLLM puts two ranks on a machine with one NUMA node."""
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


def test_a_moved_artifact_hits_with_another_root_and_home(baked: TriedBake, tmp_path: Path) -> None:
    """Nothing is at the places of the bake: artifact, root and HOME have others, and the folder of the bake is gone."""
    shutil.copytree(baked.boot, tmp_path / "elsewhere", symlinks=False)
    shutil.rmtree(baked.work / "bake-root")
    start = baked.start("elsewhere", FORCE, root=tmp_path / "root", boot=tmp_path / "elsewhere")
    verdict = judge(start, baked.session, "M", 1)
    assert verdict.hit, verdict.reasons
    assert explain_start(baked.report, baked.work / "elsewhere" / "record")[0].state == "ok"


def test_other_weights_at_the_same_path_load_everything_and_only_their_answers_tell(
    baked: TriedBake, tmp_path: Path
) -> None:
    other = write_checkpoint("llama", tmp_path / "other", head_dim=32, seed=7)
    verdict = judge(replace(baked, model=other).start("weights", FORCE), baked.session, "M", 1)
    assert verdict.counters["num_aot_artifacts_loaded"] == 1
    assert verdict.reasons
    assert all("other tokens" in reason or "log probabilities" in reason for reason in verdict.reasons)


def test_a_read_only_root_is_a_miss_that_is_named(baked: TriedBake) -> None:
    """A file system that is read-only holds for root, too."""
    if not baked.host.isolation.isolated:
        pytest.skip("needs a mount namespace")
    root = damaged(baked, "readonly")
    mount = (
        "sh",
        "-c",
        'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"',
        "sh",
        str(root),
    )
    closed = replace(baked.host.isolation, prefix=(*baked.host.isolation.prefix, *mount))
    host = replace(baked.host, isolation=closed)
    start = replace(baked, host=host).start("readonly", FORCE, root=root)
    assert not judge(start, baked.session, "M", 1).hit
    found = explain_start(baked.report, baked.work / "readonly" / "record")
    assert "Read-only file system" in next(each.text for each in found if each.subject == "carrier")


def test_another_model_path_ends_a_forced_start_and_is_named(baked: TriedBake) -> None:
    elsewhere = replace(baked.host, isolation=replace(baked.host.isolation, model=f"{MODEL_PATH}/"))
    start = replace(baked, host=elsewhere).start("path", FORCE)
    assert start.session["ready"] is None
    found = explain_start(baked.report, baked.work / "path" / "record")
    assert "config.ModelConfig: model" in deciding(found)


def test_a_forced_start_without_kernels_is_a_false_hit_that_is_detected(baked: TriedBake) -> None:
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


def test_a_truncated_artifact_is_compiled_again(baked: TriedBake) -> None:
    root = damaged(baked, "truncated")
    model = next(path for path in root.rglob("model") if path.is_file())
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    start = baked.start("truncated", {"LMI_BOOT_ARTIFACT": str(baked.model)}, root=root)
    assert start.session["ready"] is not None
    assert not judge(start, baked.session, "M", 1).hit


def test_an_environment_that_was_moved_is_a_false_hit_that_is_detected(baked: TriedBake, tmp_path: Path) -> None:
    """A link to the environment: Python takes its path, and vLLM's files are at another one."""
    python = Path(os.environ[PYTHON])
    (tmp_path / "moved").symlink_to(python.parent.parent)
    moved = replace(baked.host, python=str(tmp_path / "moved" / "bin" / python.name))
    start = replace(baked, host=moved).start("moved", FORCE)
    assert not judge(start, baked.session, "M", 1).hit
    found = explain_start(baked.report, baked.work / "moved" / "record")
    assert "paths: site-packages" in deciding(found)


@pytest.fixture(scope="module")
def just_in_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedBake]:
    """Bake in dialect J, with the path of CUDA; test_real_artifact.py has the CPU platform as it is."""
    folder = tmp_path_factory.mktemp("jit")
    model, out = write_checkpoint("llama", folder / "model", head_dim=32), folder / "out"
    out.mkdir()
    with isolation(model, MODEL_PATH) as isolated:
        host = ServerHost(os.environ[PYTHON], isolated, (CUDA_PATH,), 600)
        yield bake_in(bake.BakeSpec(SERVING, "J", "", "", 250, {}), host, model, folder / "work", out)


def test_dialect_j_hits_and_has_the_key_of_vllm(just_in_time: TriedBake) -> None:
    assert just_in_time.verdict.hit
    assert just_in_time.verdict.counters["num_compiled_artifacts_loaded"] > 0
    assert just_in_time.verdict.counters.get("num_compiled_artifacts_saved", 0) == 0
    assert keyed_by(just_in_time.report) == "vllm"


def test_kernels_outside_of_the_root_are_compiled_again_and_the_folder_is_named(
    just_in_time: TriedBake, tmp_path: Path
) -> None:
    start = just_in_time.start("outside", {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)})
    assert not judge(start, just_in_time.session, "J", 1).hit
    found = explain_start(just_in_time.report, just_in_time.work / "outside" / "record")
    assert "paths: TORCHINDUCTOR_CACHE_DIR" in deciding(found)


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
