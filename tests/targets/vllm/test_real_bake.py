"""Bake, proof and relocation with a real vLLM on a CPU, in dialect M (real_bakes.py)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.targets.vllm.explain import explain_start
from compiler.targets.vllm.interpreter import PYTHON
from compiler.targets.vllm.proof import judge
from compiler.targets.vllm.serving import MODEL_PATH
from tests.targets.vllm.bakes import TriedBake
from tests.targets.vllm.real_bakes import MARKS, deciding, real_bake
from tests.tiny import write_checkpoint

pytestmark = MARKS
FORCE = {"VLLM_FORCE_AOT_LOAD": "1"}


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriedBake]:
    with real_bake(tmp_path_factory.mktemp("vllm"), "M") as found:
        yield found


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
