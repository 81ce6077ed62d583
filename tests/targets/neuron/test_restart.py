"""A fresh process must compile nothing: after a driver's build, at prewarm, and in its script, with stand-ins."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.artifact.manifest import load_manifest
from compiler.deploy.prewarm import answer_without_compiler
from compiler.errors import CompileError, IncompatibleError, RankError, RefusedError
from compiler.registry.push import push
from compiler.storage.cache.stages import open_cache
from compiler.targets.neuron import runtime
from compiler.targets.neuron.drivers.call import check_restart, run_driver
from compiler.targets.neuron.drivers.driver import check_compiler
from compiler.targets.neuron.graph.lower import lower
from compiler.targets.neuron.graph.signature import GraphSpec
from compiler.targets.neuron.plan import neuron_plan
from compiler.targets.neuron.restart import restart_of
from compiler.targets.neuron.runtime import NeuronRuntime, VendorRunner
from compiler.targets.neuron.section import NeuronFiles
from compiler.targets.neuron.specs import VendorBuild
from compiler.targets.values import Sources
from tests.command import Ran, command
from tests.targets.neuron import library
from tests.targets.neuron.stand_in import calls, install
from tests.targets.neuron.test_drivers import driver, made, plan_for
from tests.targets.neuron.test_neuronx import PLAN
from tests.tiny import model_config

SPEC = VendorBuild(driver("optimum"), plan_for(), "inf2", "sha256:0")


@pytest.fixture(scope="module")
def graph() -> bytes:
    return lower(PLAN, GraphSpec("token", 16, 1))


@pytest.fixture
def commands(graph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with both stand-ins, first on PATH."""
    folder = tmp_path / "bin"
    install(folder)
    library.install(folder, graph, made(tmp_path / "expected", SPEC.driver, SPEC.plan))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def run(tmp_path: Path, mode: str = "", spec: VendorBuild = SPEC, *, cached: bool = False) -> Path:
    """Run the driver in a mode; its result."""
    (tmp_path / "bin" / "library.mode").write_text(mode)
    model, out = tmp_path / "model", tmp_path / "out"
    for folder in (model, out):
        folder.mkdir(exist_ok=True)
    cache = open_cache(tmp_path / "cache", None, warn=print) if cached else None
    run_driver(spec, out, Sources(tmp_path, cache=cache, model=model), 60)
    return out / "vendor"


def test_the_call_runs_again_from_its_cache_in_another_folder(commands: Path, tmp_path: Path) -> None:
    result = run(tmp_path)
    first, second = library.exports(commands)
    assert Path(second) == Path(first) / "again"
    assert len(calls(commands)) == 1
    found = restart_of((result / "restart.txt").read_text())
    assert found.reasons == ()
    assert found.text == "a fresh process compiled nothing (1 executables in the cache)"
    cached = [path.name for path in (result / "cache").rglob("*") if path.is_file()]
    assert sorted(cached) == ["model.done", "model.hlo_module.pb", "model.neff"]
    assert not (tmp_path / "out" / "driver").exists()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("temporary", r"1 run\(s\) of neuronx-cc, such as `compile --framework=XLA"),
        ("temporary path", r"1 run\(s\) of neuronx-cc, such as `compile --framework=XLA"),
        ("touch", r"1 new file\(s\) in the compile cache, such as .*of-"),
    ],
)
def test_a_start_that_compiles_is_found_out(mode: str, words: str, commands: Path, tmp_path: Path) -> None:
    del commands
    record = (run(tmp_path, mode) / "restart.txt").read_text()
    with pytest.raises(CompileError, match=words):
        check_restart(driver("tnx"), record)
    check_restart(SPEC.driver, record)  # its executables are in model.pt: noted, not refused
    assert restart_of(record).text.startswith("a fresh process compiles again: ")


@pytest.mark.parametrize("failures", [0, 2])
def test_a_library_is_tried_again_with_its_cache(failures: int, commands: Path, tmp_path: Path) -> None:
    result = run(tmp_path, f"fail {failures}")
    assert (result / "neuron_config.json").is_file()
    assert len(calls(commands)) == 1


def test_graphs_of_a_build_that_failed_are_not_compiled_again(commands: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"failed with exit code 1(.*\n)+.*backend crashed") as found:
        run(tmp_path, "fail 3", cached=True)
    assert "graphs that were compiled are in its cache" in found.value.hint
    run(tmp_path, "fail 3", cached=True)
    assert (len(library.exports(commands)), len(calls(commands))) == (5, 1)
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


def test_a_model_is_needed(commands: Path, tmp_path: Path) -> None:
    del commands
    with pytest.raises(CompileError, match="reads the model's own files"):
        run_driver(SPEC, tmp_path, Sources(tmp_path), 60)


def test_the_compiler_is_that_of_the_sdk() -> None:
    check_compiler(driver("optimum"), "2.21.33363.0+82129205")
    check_compiler(driver("nxdi"), "2.9")
    with pytest.raises(IncompatibleError, match=r"SDK 2\.26\.1 with neuronx-cc 2\.21; found 2\.16\.372\.0") as found:
        check_compiler(driver("optimum"), "2.16.372.0")
    assert "huggingface-vllm-inference-neuronx" in found.value.hint


def _library_makes_llama(commands: Path, tmp_path: Path) -> None:
    """Let the stand-in of optimum's command make the files for the tiny Llama."""
    plan = neuron_plan(model_config("llama"), 2, 64, (2,))
    (commands / "result").unlink()
    (commands / "result").symlink_to(made(tmp_path / "own", driver("optimum", plan=plan), plan))


def _build(model: Path, tmp_path: Path) -> Ran:
    return command(
        "build", "--model", model, "--target", "neuron", "--tp", "2", "--batch", "2", "--sequence-length", "64",
        "--instance-type", "inf2.48xlarge", "--output", tmp_path / "artifact", "--json", cache=tmp_path / "stages",
    )  # fmt: skip


@pytest.fixture
def finished(
    commands: Path, tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Artifact of a build whose driver ran here."""
    model = tiny_checkpoint("llama")
    _library_makes_llama(commands, tmp_path)
    monkeypatch.syspath_prepend(str(commands))
    ran = _build(model, tmp_path)
    assert ran.code == 0, ran.err
    return tmp_path / "artifact"


def test_an_artifact_of_a_driver_is_proven_where_its_server_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(finished)
    section = manifest.section
    assert isinstance(section, NeuronFiles)
    assert section.restart == "a fresh process compiled nothing (1 executables in the cache)"
    assert manifest.stand_in
    with pytest.raises(RefusedError, match="stand-in"):
        push(finished, str(tmp_path / "store"))
    reason = NeuronRuntime().unproven(manifest)
    assert reason.startswith(
        "a start that compiles nothing was not proven: NeuronCores (/dev/neuron0) not here. On ml.inf2"
    )
    assert "huggingface-vllm-inference-neuronx" in reason
    assert reason.endswith("`lmi-compile prewarm SOURCE /opt/ml/model`")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "`optimum-cli` not here" in NeuronRuntime().unproven(manifest)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / "neuron0").touch()
    monkeypatch.setattr(runtime, "_DEVICES", devices)
    assert NeuronRuntime().unproven(manifest) == ""
    answer = answer_without_compiler(finished, "Hello", VendorRunner())
    assert (answer["text"], answer["new_tokens"], answer["hit"]) == ("Hello again", 8, True)
    (tmp_path / "bin" / "library.mode").write_text("temporary")
    with pytest.raises(RankError, match=r"does not start from what was compiled:; *1 run\(s\) of neuronx-cc"):
        answer_without_compiler(finished, "Hello", VendorRunner())


def test_the_script_of_a_driver_leaves_the_same_proof(
    commands: Path, tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_checkpoint("llama")
    _library_makes_llama(commands, tmp_path)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    ran = _build(model, tmp_path)
    assert ran.error["type"] == "ToolchainMissing"
    environment = {"PATH": path, "MODEL": str(model), "HOME": str(tmp_path), "NEURON_RT_NUM_CORES": "2"}
    script = tmp_path / "artifact" / "compile-neuron.sh"
    subprocess.run([script], env=environment, check=True, capture_output=True)
    ran = command("package", tmp_path / "artifact", "--output", tmp_path / "done", "--json", cache=tmp_path / "stages")
    assert ran.code == 0, ran.err
    done = load_manifest(tmp_path / "done")
    assert isinstance(done.section, NeuronFiles)
    assert done.section.restart == "a fresh process compiled nothing (1 executables in the cache)"
    assert done.stand_in
    assert len(calls(commands)) == 1
