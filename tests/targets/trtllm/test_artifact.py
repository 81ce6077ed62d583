"""From a model to engines in the tree of a container: with the toolchain, and without it by way of the command file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import recipes
from compiler.artifact.manifest import Manifest, load_manifest
from compiler.errors import (
    ArtifactError,
    CompileError,
    IncompatibleError,
    NumericsError,
    RefusedError,
    TokenizerError,
    ToolchainMissing,
    UsageError,
)
from compiler.numerics.verify import verify
from compiler.pipeline.build import build, command_of
from compiler.pipeline.elsewhere import package_engines
from compiler.pipeline.request import Ask, BuildRequest, Resources
from compiler.report import Silent
from compiler.runtime.generate import load
from compiler.storage.files.digest import sha256_file
from compiler.targets.trtllm import layout
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.section import Engines
from tests.targets.trtllm.stand_in import write_stand_in

Requests = Callable[..., BuildRequest]


@pytest.fixture
def request_for(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Requests:
    def make(case: str = "mixtral", tp: int = 2, options: TrtllmOptions | None = None, **changes: Any) -> BuildRequest:
        fields: dict[str, Any] = {
            "model": str(tiny_checkpoint(case)),
            "recipes": recipes,
            "target": "trtllm",
            "ask": Ask(tp=tp, max_batch=2, options=options or TrtllmOptions()),
            "output": tmp_path / "artifact",
            "cache": tmp_path / "cache",
        }
        return BuildRequest(**{**fields, **changes})

    return make


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in on PATH, and a driver with one GPU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_stand_in(folder)
    driver = folder / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA L4, 8.9, 23034, 550.54.15\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def left_by(request: BuildRequest) -> Manifest:
    """The checkpoint that a build leaves where there is no toolchain."""
    with pytest.raises(ToolchainMissing) as caught:
        build(request)
    assert caught.value.exit_code == 6
    assert str(request.output) in caught.value.message
    assert "build-engines.sh" in caught.value.hint
    return load_manifest(request.output)


def test_without_the_toolchain_a_verified_checkpoint_is_left(request_for: Requests) -> None:
    manifest = left_by(request_for())
    output = request_for().output
    assert isinstance(manifest.section, Engines)
    assert (manifest.section.files, manifest.section.container) == ((), "triton")
    assert manifest.numerics is not None
    assert manifest.numerics.reference.startswith("transformers ")
    assert manifest.device.capability is None
    assert {"checkpoint/config.json", "checkpoint/rank1.safetensors", "build-engines.sh"} <= tree(output).keys()
    assert os.access(output / "build-engines.sh", os.X_OK)
    assert verify(output).numerics == manifest.numerics
    before = tree(output)
    assert left_by(request_for()) == manifest
    assert tree(output) == before
    assert build(request_for(until="judge")).up_to_date


def test_the_judge_can_be_the_last_stage(request_for: Requests) -> None:
    result = build(request_for(until="judge"))
    assert result.made == {"convert": 1, "reference": 1, "judge": 1, "package": 1}
    assert result.manifest == load_manifest(result.output)
    with pytest.raises(UsageError, match=r"`--until` is one of .*judge"):
        build(request_for(until="lunch"))


def test_a_wrong_layout_is_noticed_before_any_toolchain(
    request_for: Requests, toolchain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layout._FUSED, "moe.up_gate", ("moe.gate", "moe.up"))
    with pytest.raises(NumericsError, match="kl_median"):
        build(request_for())
    assert not request_for().output.exists()


def test_models_that_transformers_lacks_are_judged_against_the_decoder(request_for: Requests) -> None:
    manifest = build(request_for(case="internlm2", until="judge")).manifest
    assert manifest is not None
    assert manifest.numerics is not None
    assert manifest.numerics.reference == "decoder"


def test_verify_computes_and_does_not_believe_digests(request_for: Requests) -> None:
    """Rank files whose digests are right, and whose gate and up have changed places."""
    output = build(request_for(case="llama", until="judge")).output
    manifest = json.loads((output / "manifest.json").read_bytes())
    for file in manifest["files"]:
        path = output / file["path"]
        if path.name.startswith("rank"):
            tensors = load_file(path)
            gates = {name: tensors[name.replace(".fc.", ".gate.")] for name in tensors if ".fc." in name}
            ups = {name.replace(".fc.", ".gate."): tensors[name] for name in gates}
            path.unlink()  # the cache has the same file
            save_file({**tensors, **gates, **ups}, path)
            file.update(size=path.stat().st_size, digest=sha256_file(path))
            manifest["section"]["checkpoint"][path.name] = file["digest"]
    (output / "manifest.json").unlink()
    (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NumericsError, match="kl_median"):
        verify(output)


@pytest.mark.parametrize(
    ("image", "version", "folder", "more"),
    [
        (
            "0.30.0-tensorrtllm0.12.0-cu125",
            "0.12.0",
            "tensorrt_llm/1/",
            {"serving.properties", "tensorrt_llm/config.pbtxt", "tensorrt_llm/tokenizer.json"},
        ),
        ("0.33.0-tensorrtllm0.21.0-cu128", "0.21.0", "", {"serving.properties", "tokenizer.json"}),
        ("", "0.15.0", "engines/", {"tokenizer/tokenizer.json"}),
    ],
)
def test_engines_lie_where_their_container_looks(
    request_for: Requests,
    toolchain: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: str,
    version: str,
    folder: str,
    more: set[str],
) -> None:
    monkeypatch.setenv("VERSION", version)
    options = TrtllmOptions(image=image) if image else TrtllmOptions(version=version)
    result = build(request_for(options=options))
    manifest = result.manifest
    assert manifest is not None
    assert isinstance(manifest.section, Engines)
    assert manifest.section.files == (f"{folder}rank0.engine", f"{folder}rank1.engine")
    assert (manifest.section.image or "", manifest.section.version) == (image, version)
    assert manifest.stand_in
    assert manifest.toolchain == {"tensorrt_llm": version, "driver": "550.54.15"}
    assert manifest.device.capability == "8.9"
    assert {*more, f"{folder}config.json"} <= tree(result.output).keys()
    assert not list(result.output.rglob("*.safetensors"))
    assert verify(result.output).numerics == manifest.numerics
    assert manifest.numerics is not None
    assert manifest.numerics.reference_file is None
    assert build(request_for(options=options)).up_to_date


def test_requested_properties_are_in_the_container_s_file_and_can_change(
    request_for: Requests, toolchain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERSION", "0.12.0")
    for timeout in ("600", "700"):
        serving = ("output_formatter=sse", f"option.predict_timeout={timeout}", "job_queue_size=5")
        result = build(replace(request_for(options=TrtllmOptions(serving=serving)), force=True))
        lines = (result.output / "serving.properties").read_text().splitlines()
        assert lines[-3:] == ["option.output_formatter=sse", f"option.predict_timeout={timeout}", "job_queue_size=5"]
        assert result.manifest is not None
        assert isinstance(result.manifest.section, Engines)
        assert result.manifest.section.serving["option.predict_timeout"] == timeout
        assert verify(result.output).section == result.manifest.section


def test_the_command_file_ends_with_the_same_artifact(
    request_for: Requests, toolchain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.environ["PATH"]
    monkeypatch.setenv("PATH", here.removeprefix(f"{toolchain}:"))
    left_by(request_for())
    without = subprocess.run([request_for().output / "build-engines.sh"], capture_output=True, text=True, check=False)
    assert (without.returncode, "not on PATH" in without.stderr) == (6, True)
    monkeypatch.setenv("PATH", f"{here}:{Path(sys.executable).parent}")
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))
    (toolchain / "lmi-compile").write_text(f'#!/bin/sh\nexec {sys.executable} -m compiler "$@"\n')
    (toolchain / "lmi-compile").chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    subprocess.run([request_for().output / "build-engines.sh", "--workers", "2"], check=True, cwd="/")
    direct = build(request_for(output=tmp_path / "direct"))
    assert tree(tmp_path / "artifact-engines") == tree(direct.output)
    # The same build goes on from the checkpoint where it is, too; but not over engines that somebody waited for.
    with pytest.raises(UsageError, match="holds another artifact"):
        build(request_for())
    assert (request_for().output / "engines/rank0.engine").exists()
    shutil.rmtree(request_for().output / "engines")
    assert build(request_for()).manifest == direct.manifest


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("0.28.0-tensorrtllm0.9.0-cu122", "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference"),
        ("localhost:5000/mirror:0.28.0-tensorrtllm0.9.0-cu122", "localhost:5000/mirror"),
    ],
)
def test_in_an_image_the_command_file_runs_itself(
    request_for: Requests, toolchain: Path, monkeypatch: pytest.MonkeyPatch, image: str, registry: str
) -> None:
    (toolchain / "trtllm-build").unlink()
    (toolchain / "docker").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$0.log"\n')
    (toolchain / "docker").chmod(0o755)
    left_by(request_for(options=TrtllmOptions(image=image)))
    subprocess.run([request_for().output / "build-engines.sh", "--docker", "--workers", "4"], check=True)
    line = (toolchain / "docker.log").read_text().splitlines()
    assert line[-4:] == [
        f"{registry}:0.28.0-tensorrtllm0.9.0-cu122",
        "./build-engines.sh",
        "--workers",
        "4",
    ]
    assert f"{request_for().output}:/artifact" in line


def test_engines_of_another_version_are_built_again(
    request_for: Requests, toolchain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(request_for())
    with pytest.raises(CompileError, match=r"built by TensorRT-LLM 0\.12\.0, expected 0\.21\.0"):
        build(request_for(options=TrtllmOptions(version="0.21.0"), force=True))


def test_a_build_that_fails_leaves_nothing(
    request_for: Requests, toolchain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", "hang")
    with pytest.raises(CompileError, match="did not finish in 1 s"):
        build(request_for(resources=Resources(timeout=1)))
    assert not request_for().output.exists()
    monkeypatch.setenv("MODE", "")
    assert build(request_for()).made == {"compile": 1, "package": 1}


def test_package_refuses_missing_or_other_engines(request_for: Requests, tmp_path: Path, toolchain: Path) -> None:
    checkpoint = build(request_for(until="judge")).output
    with pytest.raises(ArtifactError, match=r"rank0\.engine is missing") as caught:
        package_engines(checkpoint, None, None, Silent())
    assert "build-engines.sh" in caught.value.hint
    other = build(request_for(case="llama", until="judge", output=tmp_path / "other")).output
    subprocess.run([other / "build-engines.sh"], check=True, capture_output=True)
    with pytest.raises(ArtifactError, match="architecture: expected 'MixtralForCausalLM', found 'LlamaForCausalLM'"):
        package_engines(checkpoint, other / "engines", tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()
    done, _ = package_engines(other, None, None, Silent())
    with pytest.raises(UsageError, match="not a checkpoint that waits"):
        package_engines(done, None, None, Silent())


def test_damage_and_doctored_engines_are_found(request_for: Requests, toolchain: Path) -> None:
    output = build(request_for()).output
    path = output / "tensorrt_llm/1/config.json"
    content = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps({**content, "version": "0.12.0"}))
    with pytest.raises(ArtifactError, match=r"tensorrt_llm/1/config\.json: expected"):
        verify(output)


def test_engines_are_not_run_here(request_for: Requests, toolchain: Path) -> None:
    with pytest.raises(IncompatibleError, match="in a serving container"):
        load(build(request_for()).output)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"march": "native"}, UsageError, "for the GPU of the machine"),
        ({"device": "cpu"}, UsageError, "for the GPU of the machine"),
        ({"options": TrtllmOptions(max_input_len=512)}, RefusedError, "`--max-input-len` takes 1 to"),
        ({"options": TrtllmOptions(max_num_tokens=1)}, RefusedError, "`--max-num-tokens` takes at least"),
        ({"options": TrtllmOptions(image="0.34.0-tensorrtllm0.12.0-cu125")}, RefusedError, r"0\.34"),
        (
            {"options": TrtllmOptions(image="0.30.0-tensorrtllm0.12.0-cu125", version="0.9.0")},
            UsageError,
            r"has TensorRT-LLM 0\.12\.0",
        ),
        (
            {"options": TrtllmOptions(serving=("predict_timout=9",))},
            UsageError,
            r"no property `option\.predict_timout`",
        ),
        ({"options": TrtllmOptions(serving=("predict_timeout=soon",))}, UsageError, "takes type int; found `soon`"),
        ({"options": TrtllmOptions(serving=("max_seq_len=9",))}, RefusedError, r"begins with LMI 0\.33"),
        ({"options": TrtllmOptions(serving=("tensor_parallel_degree=9",))}, UsageError, "follows from the artifact"),
        ({"options": TrtllmOptions(serving=("engine",))}, UsageError, "takes NAME=VALUE; found `engine`"),
        ({"options": TrtllmOptions(version="0.15.0", serving=("dtype=x",))}, UsageError, "none has this version"),
        ({"options": TrtllmOptions(pp=2), "target": "inductor"}, UsageError, "options of target `inductor`"),
    ],
)
def test_options_without_meaning_are_refused_at_plan_time(
    request_for: Requests, changes: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        build(request_for(**changes))
    assert not (request_for().cache / "stages").exists()


def test_a_container_needs_a_tokenizer_from_the_start(request_for: Requests, tmp_path: Path) -> None:
    source = Path(request_for().model)
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in source.iterdir():
        if file.name != "tokenizer_config.json":
            (bare / file.name).symlink_to(file)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is missing"):
        build(request_for(model=str(bare)))
    assert not (request_for().cache / "stages").exists()


def test_the_command_line_is_known_from_the_headers_alone(request_for: Requests) -> None:
    request = request_for(options=TrtllmOptions(max_input_len=20, max_num_tokens=99))
    line = command_of(replace(request, ask=replace(request.ask, max_positions=32)))
    given = dict(zip(line[1::2], line[2::2], strict=True))
    assert line[0] == "trtllm-build"
    assert (given["--max_batch_size"], given["--max_input_len"], given["--max_seq_len"]) == ("2", "20", "32")
    assert (given["--max_num_tokens"], given["--checkpoint_dir"]) == ("99", "checkpoint")
    with pytest.raises(UsageError, match="without a command line"):
        command_of(replace(request_for(target="inductor"), ask=Ask(tp=2)))
