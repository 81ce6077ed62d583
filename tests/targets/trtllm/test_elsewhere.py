"""LMI 0.25 and 0.26: nothing but the image compiles; its command is left, and its result becomes an artifact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import recipes
from compiler.artifact.manifest import load_manifest
from compiler.errors import ArtifactError, CompileError, ParallelError, RefusedError, ToolchainMissing
from compiler.numerics.verify import verify
from compiler.pipeline.build import build
from compiler.pipeline.elsewhere import package_engines
from compiler.pipeline.located import plan_of
from compiler.pipeline.request import Ask, BuildRequest, PlanRequest
from compiler.report import Silent
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.section import Engines

IMAGE = "0.26.0-tensorrtllm0.7.1-cu122"

DOCKER = """#!{python}
import json, pathlib, sys
arguments = sys.argv[1:]
folders = [arguments[i + 1].removesuffix(":ro").split(":") for i, name in enumerate(arguments) if name == "--volume"]
volumes = {{inside: outside for outside, inside in folders}}
tp = int(arguments[arguments.index("--tensor_parallel_degree") + 1])
assert pathlib.Path(volumes["/opt/source"], "model.safetensors").is_file()
model = pathlib.Path(volumes["/opt/ml/model"], "tensorrt_llm")
(model / "1").mkdir(parents=True)
for rank in range(tp):
    (model / "1" / f"m_float16_tp{{tp}}_rank{{rank}}.engine").write_text("no engine")
(model / "1" / "config.json").write_text(json.dumps({{"builder_config": {{}}, "version": "0.7.1+stand-in"}}))
path = 'parameters: {{ key: "gpt_model_path" value: {{ string_value: "/tmp/trtllm/tensorrt_llm/1" }} }}'
(model / "config.pbtxt").write_text('name: "tensorrt_llm"\\nmodel_transaction_policy {{ decoupled: True }}\\n' + path)
"""


@pytest.fixture
def request_for(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[..., BuildRequest]:
    def make(tp: int = 2, image: str = IMAGE, serving: tuple[str, ...] = ()) -> BuildRequest:
        return BuildRequest(
            model=str(tiny_checkpoint("mixtral")),
            recipes=recipes,
            target="trtllm",
            ask=Ask(tp=tp, dtype="float16", max_batch=2, options=TrtllmOptions(image=image, serving=serving)),
            output=tmp_path / "artifact",
            cache=tmp_path / "cache",
        )

    return make


def test_the_command_of_the_image_is_left_and_its_result_packed(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = ("predict_timeout=600",)
    with pytest.raises(ToolchainMissing, match="only the image compiles") as caught:
        build(request_for(serving=serving))
    assert "partition.sh" in caught.value.hint
    output = request_for().output
    left = load_manifest(output)
    assert isinstance(left.section, Engines)
    assert (left.section.version, left.section.image, left.section.files) == ("0.7.1", IMAGE, ())
    assert os.access(output / "partition.sh", os.X_OK)
    assert verify(output) == left
    with pytest.raises(ToolchainMissing):
        build(request_for(serving=serving))
    with pytest.raises(ArtifactError, match="compiled is missing"):
        package_engines(output, None, None, Silent())

    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(python=sys.executable))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MODEL", request_for().model)
    subprocess.run(["./partition.sh"], cwd=output, check=True, capture_output=True)
    place, manifest = package_engines(output, None, None, Silent())
    assert isinstance(manifest.section, Engines)
    assert manifest.section.files == tuple(f"tensorrt_llm/1/m_float16_tp2_rank{rank}.engine" for rank in range(2))
    assert (manifest.stand_in, manifest.numerics) == (True, None)
    assert manifest.toolchain["tensorrt_llm"] == "0.7.1"
    properties = (place / "serving.properties").read_text()
    assert "option.tensor_parallel_degree=2" in properties
    assert properties.endswith("option.output_formatter=jsonlines\noption.predict_timeout=600\n")
    assert (place / "tensorrt_llm/tokenizer_config.json").is_file()
    assert verify(place) == manifest

    (output / "compiled/tensorrt_llm/1/m_float16_tp2_rank1.engine").unlink()
    with pytest.raises(CompileError, match="expected the engines of"):
        package_engines(output, None, tmp_path / "other", Silent())
    assert not (tmp_path / "other").exists()


def test_refusals_come_before_the_command_file_is_written(request_for: Callable[..., BuildRequest]) -> None:
    with pytest.raises(ParallelError, match="tp 3"):
        build(request_for(tp=3))
    plan = request_for()
    with pytest.raises(RefusedError, match=r"has a checkpoint format from 0\.8\.0 on") as caught:
        plan_of(PlanRequest(model=plan.model, recipes=recipes, target="trtllm", ask=plan.ask))
    assert "lmi-compile build" in caught.value.hint
    assert not plan.output.exists()


def test_the_properties_say_what_was_asked_for(request_for: Callable[..., BuildRequest]) -> None:
    with pytest.raises(ToolchainMissing):
        build(request_for(image="0.25.0-tensorrtllm0.5.0-cu122"))
    script = (request_for().output / "partition.sh").read_text()
    manifest = json.loads((request_for().output / "manifest.json").read_text())
    assert "option.max_rolling_batch_size=2\n" in script
    assert "option.dtype=fp16\n" in script
    assert manifest["section"]["argv"][1].endswith("trt_llm_partition.py")
