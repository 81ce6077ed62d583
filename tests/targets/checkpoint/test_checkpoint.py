"""Target `checkpoint`: a model's own files, complete, ordered and checked, for a container that loads them."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import recipes
from compiler.artifact.checkpoint import ordered_weights
from compiler.artifact.manifest import load_manifest
from compiler.errors import ArtifactError, CheckpointError, RefusedError, UsageError
from compiler.lmi.checkpoint import MODEL_DATA, check_quantized, profile_of
from compiler.numerics.verify import verify
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.targets.checkpoint.options import CheckpointOptions
from compiler.targets.checkpoint.section import PinnedCheckpoint
from compiler.targets.checkpoint.target import TARGET
from tests.cases.checkpoints import write
from tests.command import Ran, command

Requests = Callable[..., BuildRequest]
SHARDS = ("second-half.safetensors", "a-first-half.safetensors")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny checkpoint in two shards whose index names them in an order that is not alphabetical."""
    folder = write(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors, reverse=True)
    half = len(names) // 2
    parts = {SHARDS[0]: names[:half], SHARDS[1]: names[half:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def request_for(tmp_path: Path, model: Path) -> Requests:
    def make(options: CheckpointOptions | None = None, **changes: Any) -> BuildRequest:
        fields: dict[str, Any] = {
            "model": str(model),
            "recipes": recipes,
            "target": "checkpoint",
            "ask": Ask(tp=2, max_batch=4, options=options or CheckpointOptions()),
            "output": tmp_path / "artifact",
            "cache": tmp_path / "cache",
        }
        return BuildRequest(**{**fields, **changes})

    return make


@pytest.mark.parametrize(
    ("profile", "image", "selection", "length"),
    [
        ("vllm", "0.27.0-deepspeed0.12.6-cu121", ["engine=Python", "option.rolling_batch=vllm"], "max_model_len"),
        (
            "vllm",
            "0.33.0-lmi15.0.0-cu128",
            [
                "engine=Python",
                "option.entryPoint=djl_python.lmi_vllm.vllm_async_service",
                "option.async_mode=true",
                "option.rolling_batch=disable",
            ],
            "max_model_len",
        ),
        ("lmi-dist", "0.29.0-lmi11.0.0-cu124", ["engine=MPI", "option.rolling_batch=lmi-dist"], "max_model_len"),
        (
            "lmi-dist",
            "0.30.0-lmi12.0.0-cu124",
            ["engine=Python", "option.mpi_mode=true", "option.rolling_batch=lmi-dist"],
            "max_model_len",
        ),
        (
            "deepspeed",
            "0.26.0-deepspeed0.12.6-cu121",
            ["engine=DeepSpeed", "option.task=text-generation", "option.rolling_batch=deepspeed"],
            "max_tokens",
        ),
    ],
)
def test_a_checkpoint_is_packed_with_the_properties_of_its_container(
    request_for: Requests, model: Path, profile: str, image: str, selection: list[str], length: str
) -> None:
    options = CheckpointOptions(image=image, profile=profile, serving=("predict_timeout=99",))
    result = build(request_for(options))
    assert result.manifest is not None
    section = result.manifest.section
    assert isinstance(section, PinnedCheckpoint)
    assert (section.compiled, section.backend, section.image, section.weights) == ("nothing", profile, image, SHARDS)
    assert (result.output / "serving.properties").read_text().splitlines() == [
        *selection,
        "option.tensor_parallel_degree=2",
        "option.max_rolling_batch_size=4",
        "option.dtype=bf16",
        f"option.{length}=512",
        "option.predict_timeout=99",
    ]
    for name in (*SHARDS, "model.safetensors.index.json", "config.json", "tokenizer.json"):
        assert (result.output / name).read_bytes() == (model / name).read_bytes()
    assert {file.path for file in result.manifest.files} >= {*SHARDS, "serving.properties", "config.json"}
    assert verify(result.output) == result.manifest
    assert TARGET.packager.options_of(result.manifest) == replace(
        options, serving=("option.predict_timeout=99",), profile=profile
    )
    again = build(request_for(options))
    assert again.up_to_date
    assert not again.made


def test_small_model_data_points_at_the_artifact(request_for: Requests, tmp_path: Path) -> None:
    packed = []
    for name in ("one", "two"):
        output = build(request_for(CheckpointOptions(uri="s3://bucket/models/m"), output=tmp_path / name)).output
        packed.append((output / MODEL_DATA).read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed[0]))) as archive:
        assert archive.getnames() == ["serving.properties"]
        member = archive.extractfile("serving.properties")
        assert member is not None
        lines = member.read().decode().splitlines()
    assert lines[:-1] == (tmp_path / "one" / "serving.properties").read_text().splitlines()
    assert lines[-1] == "option.model_id=s3://bucket/models/m/"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (CheckpointOptions(profile="tgi"), UsageError, "is one of vllm, lmi-dist, deepspeed; found `tgi`"),
        (CheckpointOptions(image="0.30.0-tensorrtllm0.12.0-cu125"), UsageError, "has no vLLM that loads checkpoints"),
        (CheckpointOptions(profile="lmi-dist", image="0.33.0"), RefusedError, r"in LMI 0\.25 to 0\.32; found 0\.33"),
        (CheckpointOptions(profile="deepspeed", image="0.30.0-lmi12.0.0"), UsageError, "has no DeepSpeed"),
        (CheckpointOptions(uri="bucket/models"), UsageError, "`--artifact-uri` takes s3://bucket/prefix"),
        (CheckpointOptions(serving=("max_modle_len=9",)), UsageError, r"no property `option\.max_modle_len`"),
        (CheckpointOptions(serving=("load_format=dummy",)), UsageError, "`--option option.load_format` takes auto"),
        (CheckpointOptions(serving=("enable_lora=perhaps",)), UsageError, "takes type bool; found `perhaps`"),
    ],
)
def test_wrong_options_are_refused_before_any_weight_is_read(
    request_for: Requests, options: CheckpointOptions, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        build(request_for(options))
    assert not request_for().output.exists()


def test_nothing_is_quantized(request_for: Requests) -> None:
    ask = Ask(options=CheckpointOptions(), quant=Quant(SCHEMES["int8-weight"]))
    with pytest.raises(RefusedError, match="packs a model's own files and quantizes nothing"):
        build(request_for(ask=ask))


def test_incomplete_and_pickled_checkpoints_are_refused(request_for: Requests, model: Path, tmp_path: Path) -> None:
    assert ordered_weights(model).shards == SHARDS
    (model / SHARDS[1]).unlink()
    with pytest.raises(CheckpointError, match=SHARDS[1]):
        ordered_weights(model)
    with pytest.raises(CheckpointError, match=SHARDS[1]):
        build(request_for())
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(RefusedError, match=r"found pytorch_model\.bin"):
        ordered_weights(pickled)


@pytest.mark.parametrize(
    ("profile", "image", "refused"),
    [
        ("vllm", "0.26.0-deepspeed0.12.6-cu121", "from LMI 0.27 on"),
        ("deepspeed", "0.27.0-deepspeed0.12.6-cu121", "in no release"),
        ("vllm", "0.29.0-lmi11.0.0-cu124", ""),
    ],
)
def test_a_quantized_checkpoint_needs_a_back_end_that_loads_it(profile: str, image: str, refused: str) -> None:
    if not refused:
        check_quantized("gptq", profile_of(profile, image))
        return
    with pytest.raises(RefusedError, match=refused):
        check_quantized("gptq", profile_of(profile, image))


def test_there_are_no_rank_files_to_convert(model: Path, tmp_path: Path) -> None:
    line = ("convert", "--model", model, "--target", "checkpoint", "--output", tmp_path / "out", "--json")
    error = command(*line, cache=tmp_path / "cache").error
    assert (error["exit_code"], "has no rank files" in error["message"]) == (2, True)


def test_damage_is_found(request_for: Requests) -> None:
    manifest = build(request_for()).manifest
    assert manifest is not None
    output = request_for().output
    properties = output / "serving.properties"
    text = properties.read_text()
    properties.chmod(0o644)
    properties.write_text(text.replace("degree=2", "degree=8"))
    assert TARGET.packager.problems(manifest, output) == ["serving.properties has tp 8; the manifest has 2"]
    with pytest.raises(ArtifactError, match=r"serving\.properties"):
        verify(output)
    properties.write_text(text)
    (output / SHARDS[0]).chmod(0o644)
    (output / SHARDS[0]).write_bytes(b"\x10")
    assert SHARDS[0] in TARGET.packager.problems(manifest, output)[0]


def test_an_endpoint_needs_the_image_of_the_properties(request_for: Requests) -> None:
    manifest = build(request_for(CheckpointOptions(image="0.29.0-lmi11.0.0-cu124", profile="lmi-dist"))).manifest
    assert manifest is not None

    def problems(image: str) -> list[str]:
        return list(TARGET.runtime.endpoint_problems(manifest, image, "ml.g5.12xlarge"))

    assert problems("1.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.29.0-lmi11.0.0-cu124") == []
    assert problems("0.30.0-lmi12.0.0-cu124") == ["its serving.properties is for LMI 0.29; the image is LMI 0.30"]
    assert "has no lmi-dist" in problems("0.30.0-tensorrtllm0.12.0-cu125")[0]


def test_a_serving_properties_is_carried_to_its_own_server(model: Path, tmp_path: Path) -> None:
    def run(text: str, *words: str) -> Ran:
        file = tmp_path / "serving.properties"
        file.write_text(text)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        line = ("build", "--model", model, "--target", "checkpoint", "--from-properties", file, "-o", tmp_path / "out")
        return command(*line, *words, "--json", cache=tmp_path / "cache")

    text = "engine=MPI\noption.rolling_batch=lmi-dist\noption.tensor_parallel_degree=2\noption.quantize=awq\n"
    text += "option.max_model_len=64\noption.enable_lora=true\noption.max_rolling_batch_prefill_tokens=512\n"
    ran = run(text)
    assert ran.code == 0, ran.err
    assert load_manifest(tmp_path / "out").section.model_dump()["backend"] == "lmi-dist"
    assert (tmp_path / "out/serving.properties").read_text().splitlines()[3:] == [
        "option.tensor_parallel_degree=2",
        "option.max_rolling_batch_size=256",
        "option.dtype=bf16",
        "option.max_model_len=64",
        "option.quantize=awq",
        "option.enable_lora=true",
        "option.max_rolling_batch_prefill_tokens=512",
    ]
    error = run("option.rolling_batch=lmi-dist\n", "--profile", "vllm").error
    assert "is for lmi-dist; found `--profile vllm`" in error["message"]
    assert "only the server of lmi-dist has it" in run(text, "--profile", "vllm").error["message"]
