from __future__ import annotations

import pytest

from compiler.errors import RefusedError, TokenizerError, UsageError
from compiler.lmi.images import Release
from compiler.lmi.package import container_files, engine_folder, serving_properties, tokenizer_paths
from compiler.lmi.properties import parse
from tests.lmi.artifacts import FLAT, RELEASES, TOKENIZER, TRITON, facts


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_told_what_it_would_guess(release: Release) -> None:
    written = container_files(facts(release))["serving.properties"]
    entries = parse(written, release).entries
    assert entries["option.tensor_parallel_degree"] == 2
    assert entries["option.max_rolling_batch_size"] == 8
    assert "engine" in entries
    assert "option.entryPoint" in entries
    assert "option.model_id" not in entries


def test_the_file_of_each_family_word_by_word() -> None:
    assert container_files(facts((0, 26)))["serving.properties"].decode().splitlines() == [
        "engine=MPI",
        "option.entryPoint=djl_python.tensorrt_llm",
        "option.rolling_batch=trtllm",
        "option.tensor_parallel_degree=2",
        "option.max_rolling_batch_size=8",
        "option.dtype=fp16",
        "option.max_input_len=1024",
        "option.max_output_len=512",
        "option.output_formatter=jsonlines",
    ]
    assert container_files(facts(TRITON))["serving.properties"].decode().splitlines() == [
        "engine=Python",
        "option.mpi_mode=true",
        "option.entryPoint=djl_python.tensorrt_llm",
        "option.rolling_batch=trtllm",
        "option.tensor_parallel_degree=2",
        "option.pipeline_parallel_degree=1",
        "option.max_rolling_batch_size=8",
        "option.dtype=fp16",
        "option.max_input_len=1024",
        "option.max_output_len=512",
        "option.max_num_tokens=4096",
    ]
    assert container_files(facts(FLAT))["serving.properties"].decode().splitlines() == [
        "engine=Python",
        "option.entryPoint=djl_python.lmi_trtllm.trtllm_async_service",
        "option.async_mode=true",
        "option.rolling_batch=disable",
        "option.tensor_parallel_degree=2",
        "option.pipeline_parallel_degree=1",
        "option.pipeline_parallel_size=1",
        "option.max_rolling_batch_size=8",
        "option.dtype=float16",
        "option.max_input_len=1024",
        "option.max_seq_len=1536",
        "option.max_num_tokens=4096",
        "option.enable_block_reuse=false",
    ]


def test_trees() -> None:
    triton, flat = facts(TRITON), facts(FLAT)
    assert engine_folder(triton) == "tensorrt_llm/1"
    assert engine_folder(flat) == ""
    assert set(container_files(triton)) == {"serving.properties", "tensorrt_llm/config.pbtxt"}
    assert set(container_files(flat)) == {"serving.properties"}
    assert tokenizer_paths(triton)["config.json"] == "tensorrt_llm/config.json"
    assert "config.json" not in tokenizer_paths(flat), "the engine's own config.json lies there"
    assert tokenizer_paths(flat)["tokenizer.json"] == "tokenizer.json"


@pytest.mark.parametrize("release", [(0, 25), (0, 26)])
def test_the_oldest_releases_make_their_own_config_pbtxt(release: Release) -> None:
    assert set(container_files(facts(release))) == {"serving.properties"}


def test_the_user_s_options_replace_ours() -> None:
    packed = facts(TRITON, options={"option.max_rolling_batch_size": 4, "option.predict_timeout": 600})
    entries = serving_properties(packed).entries
    assert (entries["option.max_rolling_batch_size"], entries["option.predict_timeout"]) == (4, 600)
    early = facts((0, 26), options={"option.output_formatter": "json"})
    assert serving_properties(early).entries["option.output_formatter"] == "json"
    with pytest.raises(UsageError, match=r"option\.predict_timout"):
        container_files(facts(TRITON, options={"option.predict_timout": 600}))


@pytest.mark.parametrize("release", [TRITON, FLAT])
@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (["tokenizer_config.json"], "tokenizer_config.json is missing"),
        (["tokenizer.json"], "the vocabulary is missing"),
        (TOKENIZER, "tokenizer_config.json is missing; the vocabulary"),
    ],
)
def test_a_tokenizer_that_the_container_could_not_load(release: Release, left_out: list[str], said: str) -> None:
    with pytest.raises(TokenizerError, match=said) as caught:
        container_files(facts(release, tokenizer_files=tuple(n for n in TOKENIZER if n not in left_out)))
    assert "--tokenizer" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine_files": ("config.json", "rank0.engine")}, "ranks 0 to 1, found rank0.engine"),
        ({"engine_files": ("rank0.engine", "rank1.engine")}, "config.json is missing"),
        ({"engine_files": ("config.json", "rank0.engine", "rank2.engine")}, "ranks 0 to 1"),
        (
            {"engine_files": ("config.json", "rank0.engine", "rank1.engine", "model.safetensors")},
            r"weights beside the engines .*: model\.safetensors",
        ),
        ({"dtype": "fp16"}, "float16, bfloat16, float32; found `fp16`"),
        ({"max_seq_len": 1024}, "above max_input_len 1024"),
        ({"release": (0, 28), "pp": 2}, "found pp 2"),
    ],
)
def test_engines_that_are_none(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        facts(**{"release": TRITON, **changed})  # type: ignore[arg-type]


def test_names_of_the_toolkit_and_managed_weights_are_engines_too() -> None:
    names = ("config.json", *(f"tiny_float16_tp2_rank{rank}.engine" for rank in range(2)))
    assert facts((0, 26), engine_files=names).engine_files == names
    managed = tuple(f"rank{rank}_managed_weights.safetensors" for rank in range(2))
    names = ("config.json", "rank0.engine", "rank1.engine", *managed)
    assert facts(FLAT, engine_files=names).engine_files == names


def test_releases_without_engines() -> None:
    with pytest.raises(RefusedError):
        facts((0, 34))
