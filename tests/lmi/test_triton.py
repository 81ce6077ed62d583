from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest

from compiler.lmi.triton import V8, V9, V11, V12, Version, config_pbtxt
from tests.lmi.pbtxt import Message, parse


def _config(version: Version, *, reuse: bool = False) -> Message:
    return parse(config_pbtxt(version, max_batch_size=8, paged_context_fmha=reuse).decode())


def _ports(config: Message, direction: str) -> dict[str, dict[str, Any]]:
    return {port["name"][0]: port for port in config[direction]}


def _parameters(config: Message) -> dict[str, str]:
    return {p["key"][0]: p["value"][0]["string_value"][0] for p in config["parameters"]}


@pytest.mark.parametrize("version", [V8, V9, V11, V12])
def test_the_file_has_what_lmi_asks_of_it(version: Version) -> None:
    config = _config(version)
    assert config["name"] == ["tensorrt_llm"]
    assert config["max_batch_size"] == [8]
    assert config["model_transaction_policy"] == [{"decoupled": ["True"]}]
    assert "dynamic_batching" not in config
    parameters = _parameters(config)
    assert parameters["gpt_model_path"] == "/opt/ml/model/tensorrt_llm/1"
    assert parameters["gpt_model_type"] == "inflight_fused_batching"
    assert not any("$" in value for value in parameters.values())


@pytest.mark.parametrize("version", [V8, V9, V11, V12])
def test_every_tensor_is_there_once(version: Version) -> None:
    config = _config(version)
    for direction in ("input", "output"):
        names = [port["name"][0] for port in config[direction]]
        assert len(set(names)) == len(names)


def test_changes_between_versions_are_those_of_the_releases() -> None:
    inputs = {version: _ports(_config(version), "input") for version in (V8, V9, V11, V12)}
    assert "lora_task_id" not in inputs[V8]
    assert "draft_logits" in inputs[V9]
    assert "early_stopping" not in inputs[V9]
    assert "decoder_input_ids" in inputs[V11]
    assert "reshape" not in inputs[V11]["request_output_len"]
    assert inputs[V12]["request_output_len"]["reshape"] == [{"shape": []}]
    assert "batch_index" in _ports(_config(V12), "output")
    assert "enable_trt_overlap" in _parameters(_config(V9))
    assert "enable_trt_overlap" not in _parameters(_config(V11))
    # Counted in the files of tensorrtllm_backend at the four tags.
    assert [len(inputs[version]) for version in (V8, V9, V11, V12)] == [28, 30, 38, 38]


def test_shapes_and_flags() -> None:
    ports = _ports(_config(V12), "input")
    assert ports["input_ids"] == {
        "name": ["input_ids"],
        "data_type": ["TYPE_INT32"],
        "dims": [-1],
        "allow_ragged_batch": ["true"],
    }
    assert ports["stop_words_list"]["dims"] == [2, -1]
    assert ports["temperature"]["optional"] == ["true"]


def test_reuse_of_the_cache_is_asked_for_where_the_engine_can() -> None:
    assert _parameters(_config(V12))["enable_kv_cache_reuse"] == "False"
    assert _parameters(_config(V12, reuse=True))["enable_kv_cache_reuse"] == "True"


CLONE = os.environ.get("LMI_COMPILE_TENSORRTLLM_BACKEND", "")


@pytest.mark.skipif(not CLONE, reason="LMI_COMPILE_TENSORRTLLM_BACKEND names no clone of tensorrtllm_backend")
@pytest.mark.parametrize(("tag", "version"), [("v0.8.0", V8), ("v0.9.0", V9), ("v0.11.0", V11), ("v0.12.0", V12)])
def test_its_own_file_has_the_same_tensors(tag: str, version: Version) -> None:
    path = "all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt"
    told = subprocess.run(["git", "-C", CLONE, "show", f"{tag}:{path}"], capture_output=True, text=True, check=True)
    theirs, ours = parse(re.sub(r"\$\{(\w+)\}", r"placeholder_\1", told.stdout)), _config(version)
    for direction in ("input", "output"):
        assert _ports(ours, direction) == _ports(theirs, direction)
    assert ours["instance_group"] == theirs["instance_group"]
    assert set(_parameters(ours)) <= set(_parameters(theirs))
