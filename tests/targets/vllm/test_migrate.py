"""Migration from TensorRT-LLM: every property is mapped, or named with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import UsageError
from compiler.lmi.options import OPTIONS
from compiler.targets.vllm.migrate import _WITHOUT, migrated, read_properties

TRTLLM = {
    "engine": "MPI",
    "option.model_id": "meta-llama/Llama-3.1-8B",
    "option.rolling_batch": "trtllm",
    "option.tensor_parallel_degree": "4",
    "option.max_rolling_batch_size": "16",
    "option.max_input_len": "1024",
    "option.max_output_len": "512",
    "option.dtype": "fp16",
    "option.quantize": "smoothquant",
    "option.smoothquant_alpha": "0.8",
    "option.kv_cache_free_gpu_mem_fraction": "0.9",
    "option.enable_kv_cache_reuse": "true",
    "option.made_up": "1",
}


def test_properties_are_mapped_by_meaning() -> None:
    found = migrated(None, TRTLLM)
    assert found.properties == {
        "engine": "Python",
        "option.tensor_parallel_degree": "4",
        "option.max_rolling_batch_size": "16",
        "option.max_model_len": "1536",
        "option.dtype": "fp16",
        "option.enable_prefix_caching": "true",
    }


def test_every_property_is_either_mapped_or_dropped_with_a_reason() -> None:
    found = migrated(None, TRTLLM)
    named = [line.partition("=")[0] for line in (*found.mapped, *found.dropped)]
    assert sorted(named) == sorted(TRTLLM)
    assert all(line.partition(": ")[2] for line in found.dropped)
    assert any(line.startswith("option.kv_cache_free_gpu_mem_fraction=0.9: a share of") for line in found.dropped)
    assert any(
        line == "option.made_up=1: no property of an LMI image with vLLM has this meaning" for line in found.dropped
    )


def test_the_command_line_builds_for_vllm() -> None:
    assert migrated(None, TRTLLM).command == (
        "lmi-compile build --model meta-llama/Llama-3.1-8B --tp 4 --max-positions 1536 --max-batch 16 "
        "--quant smoothquant --target vllm"
    )


def test_one_length_alone_is_not_taken_for_the_row() -> None:
    entries = {"option.model_id": "m", "option.max_input_len": "1024"}
    found = migrated(None, entries)
    assert "option.max_model_len" not in found.properties
    assert "--max-positions" in found.dropped[-1]


def test_a_length_that_is_no_number_is_refused() -> None:
    entries = {"option.model_id": "m", "option.max_input_len": "x", "option.max_output_len": "1"}
    with pytest.raises(UsageError, match="takes a number of tokens; found `x`"):
        migrated(None, entries)


def test_without_a_model_it_is_refused() -> None:
    with pytest.raises(UsageError, match="names the model"):
        migrated(None, {"option.tensor_parallel_degree": "2"})


def test_properties_of_the_table_exist_for_tensorrt_llm() -> None:
    """A row for a name that no LMI image with TensorRT-LLM has is a typing error; two come from other readers."""
    assert set(_WITHOUT) - {option.name for option in OPTIONS} <= {"option.free_gpu_memory_fraction"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"serving\.properties"):
        read_properties(tmp_path / "serving.properties")
    assert read_properties(tmp_path) == {}
