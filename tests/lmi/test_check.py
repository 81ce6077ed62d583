"""Whole artifacts pass for every release; every way to get one wrong is a problem with a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.errors import ArtifactError, RefusedError
from compiler.lmi.check import check
from compiler.lmi.images import Release
from compiler.lmi.predicates import recognized_as_compiled, verdict
from tests.lmi.artifacts import FLAT, PACKED, TRITON, engine_config, facts, write_artifact

Mutation = Callable[[Path], object]


def _edit(name: str, *changes: tuple[str, str]) -> Mutation:
    def mutate(folder: Path) -> None:
        text = (folder / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text)

    return mutate


def _remove(name: str) -> Mutation:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str = "{}") -> Mutation:
    def mutate(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return mutate


def _append(line: str) -> Mutation:
    def mutate(folder: Path) -> None:
        with (folder / "serving.properties").open("a") as file:
            file.write(line + "\n")

    return mutate


def _move(source: str, target: str) -> Mutation:
    def mutate(folder: Path) -> None:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).rename(folder / target)

    return mutate


def _lift(folder: Path) -> None:
    """The files of the model folder at the root: the first mistake everybody makes."""
    for path in (folder / "tensorrt_llm").iterdir():
        path.rename(folder / path.name)
    (folder / "tensorrt_llm").rmdir()


def _only_folders(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def _second_model(folder: Path) -> None:
    shutil.copytree(folder / "tensorrt_llm", folder / "draft")


def _without(key: str) -> str:
    return json.dumps({name: value for name, value in engine_config().items() if name != key})


@pytest.mark.parametrize("release", PACKED)
def test_what_we_pack_is_served_as_it_is(tmp_path: Path, release: Release) -> None:
    folder = write_artifact(tmp_path / "artifact", facts(release))
    assert check(folder, release) == []
    assert verdict(folder, release) == "ready"


@pytest.mark.parametrize(("built", "served", "expected"), [(TRITON, FLAT, "compiles"), (FLAT, TRITON, "fails")])
def test_the_families_are_blind_to_each_other(tmp_path: Path, built: Release, served: Release, expected: str) -> None:
    folder = write_artifact(tmp_path / "artifact", facts(built))
    assert not recognized_as_compiled(folder, served)
    assert verdict(folder, served) == expected
    assert expected in [problem.what for problem in check(folder, served)]


TRITON_MUTATIONS: dict[str, tuple[Mutation, str, str]] = {
    "a file level too high": (_lift, "depth", "the root itself"),
    "a level too deep": (_move("tensorrt_llm", "repo/tensorrt_llm"), "depth", "repo/tensorrt_llm"),
    "no tokenizer_config.json": (_remove("tensorrt_llm/tokenizer_config.json"), "tokenizer", "tokenizer_config.json"),
    "no vocabulary": (_remove("tensorrt_llm/tokenizer.json"), "tokenizer", "the vocabulary is missing"),
    "no config.pbtxt": (_remove("tensorrt_llm/config.pbtxt"), "no-model", "no config.pbtxt"),
    "two models": (_second_model, "two-models", "draft, tensorrt_llm"),
    "checkpoint in the model folder": (_write("tensorrt_llm/model.safetensors"), "weights", "model.safetensors"),
    "checkpoint beside the engines": (_write("tensorrt_llm/1/pytorch_model.bin"), "weights", "pytorch_model.bin"),
    "a rank is missing": (_remove("tensorrt_llm/1/rank1.engine"), "ranks", "ranks 0 to 1, found rank0.engine"),
    "a rank too many": (_write("tensorrt_llm/1/rank2.engine"), "ranks", "rank2.engine"),
    "no version folder": (_move("tensorrt_llm/1", "tensorrt_llm/2"), "no-version", "tensorrt_llm/1 is missing"),
    "no config.json": (_remove("tensorrt_llm/1/config.json"), "config", "config.json is missing"),
    "a source's config.json": (
        _write("tensorrt_llm/1/config.json", '{"model_type": "llama"}'),
        "config",
        "Hugging Face's: it lacks pretrained_config and build_config",
    ),
    "config.json cut off": (_write("tensorrt_llm/1/config.json", '{"version"'), "config", "cannot be read"),
    "a placeholder": (_edit("tensorrt_llm/config.pbtxt", ("0.95", "${fraction}")), "placeholder", "fraction"),
    "not decoupled": (_edit("tensorrt_llm/config.pbtxt", ("decoupled: True", "decoupled: False")), "not-decoupled", ""),
    "another folder's path": (
        _edit("tensorrt_llm/config.pbtxt", ("/opt/ml/model/tensorrt_llm/1", "/tmp/engine")),
        "path",
        "found /tmp/engine",
    ),
    "renamed folder": (_move("tensorrt_llm", "mixtral"), "name", "calls the model `tensorrt_llm`"),
    "model_id left": (_append("option.model_id=meta-llama/Llama-2-7b"), "elsewhere", "option.model_id"),
    "no serving.properties": (_remove("serving.properties"), "no-properties", "missing at the root"),
    "a store of models": (_only_folders, "no-properties", "loaded as a store of models"),
    "no tp": (_edit("serving.properties", ("option.tensor_parallel_degree=2\n", "")), "property-missing", "tensor_par"),
    "no batch size": (
        _edit("serving.properties", ("option.max_rolling_batch_size=8\n", "")),
        "property-missing",
        "max_rolling_batch_size",
    ),
    "no engine": (_edit("serving.properties", ("engine=Python\n", "")), "property-missing", "`engine`"),
    "another tp": (
        _edit("serving.properties", ("tensor_parallel_degree=2", "tensor_parallel_degree=4")),
        "parallel",
        "the engine has tp_size 2; `option.tensor_parallel_degree` requests 4",
    ),
    "tp max": (
        _edit("serving.properties", ("tensor_parallel_degree=2", "tensor_parallel_degree=max")),
        "properties",
        "found `max`",
    ),
    "a larger batch": (
        _edit("serving.properties", ("rolling_batch_size=8", "rolling_batch_size=64")),
        "limits",
        "is 64; the engine was built for 8",
    ),
    "without MPI": (_edit("serving.properties", ("option.mpi_mode=true\n", "")), "no-mpi", "MPI"),
    "rolling batch off": (_edit("serving.properties", ("=trtllm", "=disable")), "property", "found disable"),
    "a misspelt name": (_append("option.max_rolling_batchsize=4"), "properties", "max_rolling_batchsize"),
    "a line of no property": (_append("option.dtype"), "properties", "fails at a line"),
    "an escape": (_append("option.revision=a\\tb"), "properties", "read serving.properties differently"),
    "of another release": (_append("option.quant_algo=FP8"), "properties", "begins with LMI 0.33"),
}

FLAT_MUTATIONS: dict[str, tuple[Mutation, str, str]] = {
    "no build_config": (_write("config.json", _without("build_config")), "config", "it lacks build_config"),
    "no pretrained_config": (
        _write("config.json", _without("pretrained_config")),
        "config",
        "it lacks pretrained_config",
    ),
    "shadowed by the source's": (_write("config.json", '{"architectures": []}'), "config", "Hugging Face's"),
    "config.json cut off": (_write("config.json", "{"), "config", "cannot be read"),
    "no config.json": (_remove("config.json"), "config", "config.json is missing"),
    "a checkpoint left": (_write("model-00001-of-00002.safetensors"), "weights", "model-00001-of-00002.safetensors"),
    "no tokenizer_config.json": (_remove("tokenizer_config.json"), "tokenizer", "tokenizer_config.json"),
    "a rank is missing": (_remove("rank0.engine"), "ranks", "found rank1.engine"),
    "the engine path": (_edit("serving.properties", ("=disable", "=trtllm")), "property", "found trtllm"),
    "not asynchronous": (_edit("serving.properties", ("async_mode=true", "async_mode=false")), "property", "True"),
    "pytorch": (_append("option.backend=pytorch"), "property", "engine would not be loaded"),
    "ignored quantisation": (_append("option.quantize=smoothquant"), "properties", "ends before LMI 0.33"),
    "another pp": (
        _edit("serving.properties", ("pipeline_parallel_degree=1", "pipeline_parallel_degree=2")),
        "parallel",
        "pp_size 1",
    ),
    "no serving.properties": (_remove("serving.properties"), "no-properties", "missing at the root"),
    "model_id left": (_append("option.model_id=s3://bucket/engines/"), "elsewhere", "option.model_id"),
}


def _cases() -> list[object]:
    tables = ((TRITON, TRITON_MUTATIONS), (FLAT, FLAT_MUTATIONS))
    return [
        pytest.param(release, *mutation, id=f"{release[1]}-{name}")
        for release, mutations in tables
        for name, mutation in mutations.items()
    ]


@pytest.mark.parametrize(("release", "mutate", "what", "said"), _cases())
def test_every_mistake_is_a_problem(tmp_path: Path, release: Release, mutate: Mutation, what: str, said: str) -> None:
    folder = write_artifact(tmp_path / "artifact", facts(release))
    mutate(folder)
    found = [problem.text for problem in check(folder, release) if problem.what == what]
    assert any(said in text for text in found), check(folder, release)


COMPILES = {
    TRITON: [
        "a file level too high",
        "a level too deep",
        "no tokenizer_config.json",
        "no config.pbtxt",
        "a store of models",
    ],
    FLAT: ["no build_config", "shadowed by the source's", "no config.json"],
}


@pytest.mark.parametrize(
    ("release", "mutate"),
    [
        pytest.param(release, mutations[name][0], id=f"{release[1]}-{name}")
        for release, mutations in ((TRITON, TRITON_MUTATIONS), (FLAT, FLAT_MUTATIONS))
        for name in COMPILES[release]
    ],
)
def test_what_would_be_compiled_without_a_word(tmp_path: Path, release: Release, mutate: Mutation) -> None:
    folder = write_artifact(tmp_path / "artifact", facts(release))
    mutate(folder)
    assert verdict(folder, release) == "compiles"
    assert "compiles" in [problem.what for problem in check(folder, release)]


@pytest.mark.parametrize(
    ("release", "mutate", "expected"),
    [
        (FLAT, _write("config.json", "{"), "fails"),
        (FLAT, _append("option.revision=\\u00"), "fails"),
        (TRITON, _edit("serving.properties", ("=trtllm", "=disable")), "fails"),
        (TRITON, _append("option.model_id=s3://bucket/other/"), "elsewhere"),
        # Not asked by the front end, found by `check` alone:
        (TRITON, _remove("tensorrt_llm/1/rank0.engine"), "ready"),
        (FLAT, _remove("rank0.engine"), "ready"),
        (TRITON, _edit("serving.properties", ("option.rolling_batch=trtllm\n", "")), "ready"),
    ],
)
def test_other_verdicts(tmp_path: Path, release: Release, mutate: Mutation, expected: str) -> None:
    folder = write_artifact(tmp_path / "artifact", facts(release))
    mutate(folder)
    assert verdict(folder, release) == expected


def test_extra_files_of_ours_do_no_harm(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact", facts(TRITON))
    _write("reference.safetensors")(folder)
    _write("provenance/build.json")(folder)
    assert check(folder, TRITON) == []


def test_folders_and_releases_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        check(tmp_path / "none", TRITON)
    with pytest.raises(RefusedError):
        check(tmp_path, (0, 36))
