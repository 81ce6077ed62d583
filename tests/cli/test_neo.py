"""`neo` as an optimization job runs it: a process, its environment, an output tree or an error file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.errors import ToolchainMissing, UsageError
from compiler.lmi.neo import error_json, neo_job, target_of_features
from compiler.numerics.verify import verify
from tests.cases.checkpoints import write
from tests.command import command
from tests.targets.trtllm.stand_in import write_stand_in

Job = Callable[..., subprocess.CompletedProcess[str]]


def _variables(folder: Path) -> dict[str, str]:
    return {
        "SM_NEO_EXECUTION_CONTEXT": "1",
        "SM_NEO_INPUT_MODEL_DIR": str(folder / "input"),
        "SM_NEO_COMPILED_MODEL_DIR": str(folder / "compiled"),
        "SM_NEO_COMPILATION_ERROR_FILE": str(folder / "errors/errors.json"),
        "SM_NEO_CACHE_DIR": str(folder / "cache"),
        "SM_NEO_HF_CACHE_DIR": str(folder / "datasets"),
    }


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """`job(properties, *words, **variables)`: run the step on a tiny model, in a process of its own."""
    for name in ("compiled", "cache", "datasets"):
        (tmp_path / name).mkdir()
    model = write(tmp_path / "input")

    def run(properties: str | None, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        if properties is not None:
            (model / "serving.properties").write_text(properties)
        given = {**_variables(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPTION_", "SERVING_"))}
        environment = {**kept, **given}
        line = [sys.executable, "-m", "compiler", "neo", *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


def _error(folder: Path) -> str:
    found = json.loads((folder / "errors/errors.json").read_bytes())
    assert list(found) == ["error"]
    return str(found["error"])


def test_a_job_leaves_the_tree_that_its_container_serves(job: Job, tmp_path: Path) -> None:
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    write_stand_in(driver.parent)
    driver.write_text("#!/bin/sh\necho NVIDIA L4, 8.9, 23034, 550.54.15\n")
    driver.chmod(0o755)
    properties = "engine=MPI\noption.model_id=s3://b/m\noption.max_rolling_batch_size=3\noption.predict_timeout=99\n"
    ran = job(
        properties,
        "--image",
        "0.30.0-tensorrtllm0.12.0-cu125",
        "--json",
        OPTION_TENSOR_PARALLEL_DEGREE="2",
        OPTION_MAX_ROLLING_BATCH_SIZE="9",
        SERVING_FEATURES="trtllm",
        VERSION="0.12.0",
        PATH=f"{driver.parent}:{os.environ['PATH']}",
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["target"] == "trtllm"
    compiled = tmp_path / "compiled"
    assert (compiled / "tensorrt_llm/1/rank1.engine").is_file()
    lines = (compiled / "serving.properties").read_text().splitlines()
    assert lines[0] == "engine=Python"
    assert {"option.tensor_parallel_degree=2", "option.max_rolling_batch_size=3"} <= {*lines}
    assert "option.predict_timeout=99" in lines
    assert not [line for line in lines if "model_id" in line]
    assert verify(compiled).parallel.tp == 2
    assert not (tmp_path / "errors").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lmi-compile"]


def test_without_a_file_the_environment_is_the_request(job: Job, tmp_path: Path) -> None:
    ran = job(None, "--target", "checkpoint", OPTION_ROLLING_BATCH="lmi-dist", OPTION_ENABLE_LORA="true")
    assert ran.returncode == 0, ran.stderr
    text = (tmp_path / "compiled/serving.properties").read_text()
    assert "option.rolling_batch=lmi-dist\n" in text
    assert "option.enable_lora=true\n" in text
    again = job(None, "--target", "checkpoint", "--json")
    assert again.returncode == 2
    assert json.loads(again.stderr.splitlines()[-1])["error"]["exit_code"] == 2
    assert "InputConfiguration('SM_NEO_COMPILED_MODEL_DIR names an empty folder" in _error(tmp_path)


@pytest.mark.parametrize(
    ("properties", "variables", "code", "error"),
    [
        ("option.tensor_paralel_degree=2\n", {}, 2, "InputConfiguration('.*no property `option.tensor_paralel_degree`"),
        ("option.tensor_parallel_degree=3\n", {}, 4, "InputConfiguration("),
        ("option.dtype=fp16\n", {"SERVING_FEATURES": "trtllm"}, 6, "OptimizationFatalError("),
        ("option.dtype=fp16\n", {"SM_NEO_COMPILED_MODEL_DIR": ""}, 2, "missing: SM_NEO_COMPILED_MODEL_DIR"),
        ("option.dtype=fp16\n", {"SM_NEO_HF_CACHE_DIR": "/none"}, 2, "SM_NEO_HF_CACHE_DIR names a folder"),
        ("option.dtype=fp16\n", {"COMPILER_OPTIONS": '{"compiler_flags": {"trtllm_build_flags": {}}}'}, 2, "flags of"),
    ],
)
def test_an_error_is_a_file_and_an_exit_code(
    tmp_path: Path, properties: str, variables: dict[str, str], code: int, error: str
) -> None:
    for name in ("compiled", "cache", "datasets"):
        (tmp_path / name).mkdir()
    (write(tmp_path / "input") / "serving.properties").write_text(properties)
    given = {**_variables(tmp_path), "SERVING_FEATURES": "", "COMPILER_OPTIONS": "", **variables}
    ran = command("neo", "--json", cache=tmp_path / "cache", environment=given)
    assert ran.code == code, ran.err
    found = _error(tmp_path)
    for part in error.split(".*"):
        assert part in found
    assert ran.error["exit_code"] == code
    assert not any((tmp_path / "compiled").iterdir())


def test_variables_and_their_meaning(tmp_path: Path) -> None:
    given = {name: str(tmp_path) for name in ("SM_NEO_INPUT_MODEL_DIR", "SM_NEO_CACHE_DIR")}
    given |= {"SM_NEO_COMPILED_MODEL_DIR": str(tmp_path / "out"), "SM_NEO_COMPILATION_ERROR_FILE": "e"}
    assert neo_job({**given, "COMPILER_OPTIONS": "{}"}).cache == tmp_path
    assert neo_job({**given, "SM_NEO_CACHE_DIR": ""}).cache is None
    with pytest.raises(UsageError, match="COMPILER_OPTIONS is JSON"):
        neo_job({**given, "COMPILER_OPTIONS": "{"})
    assert target_of_features({"SERVING_FEATURES": "vllm,lmi-dist"}) == "vllm"
    assert target_of_features({}) is None
    assert json.loads(error_json(ToolchainMissing("no `x`", hint="install it"))) == {
        "error": "OptimizationFatalError('no `x`. install it')"
    }
    assert json.loads(error_json(OSError(28, "full")))["error"].startswith("OptimizationFatalError(")
