"""Names of what differs, from factors that the carrier recorded of vLLM 0.32.0 (factors-0.32.0.json)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from compiler.artifact.parts import written
from compiler.targets.vllm.cache import CompiledCache, cache_of
from compiler.targets.vllm.carrier.watch import digest
from compiler.targets.vllm.explain import explain_machine, explain_start
from compiler.targets.vllm.factors import Factors, differences, read_factors

RECORDED = json.loads((Path(__file__).parent / "factors-0.32.0.json").read_text())
REPORT = {"factors": RECORDED["baked"], "dialect": "M", "files": [{"path": "torch_compile_cache/k/model"}]}
OF_TORCH = {**REPORT, "dialect": "J", "files": [{"path": "torchinductor/fxgraph/k"}]}
"""Report of a cache that torch alone keys, as on vLLM's CPU platform."""
HIT = {"num_models_seen": 1, "num_aot_artifacts_loaded": 1}
MISS = {"num_models_seen": 1, "num_inductor_compiles": 3}


def baked() -> Factors:
    return read_factors(RECORDED["baked"])


def with_change(group: str, name: str) -> Factors:
    found = copy.deepcopy(baked())
    assert name in found[group], f"{name} is not among the recorded factors"
    found[group][name] = (digest("another value"),)
    return found


def record(folder: Path, factors: Factors, counters: dict[str, int]) -> Path:
    """Folder with records of processes that have these factors together: some differ from one process to another."""
    processes = max(len(values) for names in factors.values() for values in names.values())
    for pid in range(processes):
        facts = {
            group: {name: values[min(pid, len(values) - 1)] for name, values in names.items()}
            for group, names in factors.items()
        }
        content = {"pid": pid, "compilers": 0, "counters": {} if pid else counters, "factors": facts}
        (folder / f"{pid}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("key", "VLLM_ENGINE_READY_TIMEOUT_S"),
        ("key", "VLLM_PLUGINS"),
        ("key", "VLLM_LOOPBACK_IP"),
        ("key", "VLLM_NIXL_SIDE_CHANNEL_PORT"),
        ("key", "VLLM_PROCESS_NAME_PREFIX"),
        ("key", "CUDA_HOME"),
        ("key", "VLLM_LOG_MODEL_INSPECTION"),
        ("config.ModelConfig", "model"),
        ("config.ModelConfig", "max_model_len"),
        ("config.ModelConfig", "max_logprobs"),
        ("config.ModelConfig", "generation_config"),
        ("config.ModelConfig", "trust_remote_code"),
        ("config.ModelConfig", "revision"),
        ("config.ModelConfig", "dtype"),
        ("config.ParallelConfig", "tensor_parallel_size"),
        ("config.CacheConfig", "block_size"),
        ("config.CacheConfig", "cache_dtype"),
        ("versions", "torch"),
    ],
)
def test_each_factor_of_the_key_is_named(tmp_path: Path, group: str, name: str) -> None:
    folder = record(tmp_path, with_change(group, name), MISS)
    first, *others = explain_start(REPORT, folder)
    assert (first.subject, first.state) == ("cache", "mismatch")
    assert [(each.subject, each.state) for each in others] == [(f"{group}: {name}", "mismatch")]
    assert others[0].remedy


@pytest.mark.parametrize("name", ["VLLM_CACHE_ROOT", "VLLM_API_KEY", "VLLM_CONFIG_ROOT", "VLLM_LOGGING_LEVEL"])
def test_variables_outside_of_the_key_were_not_among_the_factors(name: str) -> None:
    assert name not in RECORDED["baked"]["key"]


def test_two_real_starts_with_another_model_differ_by_its_path_and_configuration_alone() -> None:
    """Heads of 32 at /opt/ml/model, and of 16 at another path."""
    found = copy.deepcopy(RECORDED["baked"])
    for group, names in RECORDED["found"]["changed"].items():
        found[group].update(names)
    for group, names in RECORDED["found"]["absent"].items():
        for name in names:
            del found[group][name]
    assert [(each.group, each.name) for each in differences(baked(), read_factors(found)) if each.decides] == [
        ("config.ModelConfig", "hf_config"),
        ("config.ModelConfig", "hf_text_config"),
        ("config.ModelConfig", "model"),
    ]


def test_a_miss_without_a_difference_points_to_the_files(tmp_path: Path) -> None:
    (found,) = explain_start(REPORT, record(tmp_path, baked(), MISS))
    assert "num_inductor_compiles 3" in found.text
    assert "damaged or deleted" in found.remedy


def test_a_forced_start_that_ends_without_an_artifact_is_a_miss(tmp_path: Path) -> None:
    """VLLM_FORCE_AOT_LOAD ends the process that finds none: nothing is compiled, and nothing is loaded."""
    changed = with_change("config.ModelConfig", "model")
    first, second = explain_start(REPORT, record(tmp_path, changed, {"num_models_seen": 1}))
    assert (first.state, second.subject) == ("mismatch", "config.ModelConfig: model")
    assert "loaded no compiled artifact" in first.text
    early = tmp_path / "early"
    early.mkdir()
    (none,) = explain_start(REPORT, record(early, baked(), {"num_models_seen": 0}))
    assert none.state == "mismatch"


def test_a_hit_has_no_mismatch(tmp_path: Path) -> None:
    findings = explain_start(REPORT, record(tmp_path, baked(), HIT))
    assert [(each.subject, each.state) for each in findings] == [("cache", "ok")]


@pytest.mark.parametrize(
    ("group", "name", "state"),
    [
        ("key", "VLLM_ENGINE_READY_TIMEOUT_S", "note"),
        ("variables", "TORCHINDUCTOR_COMPILE_THREADS", "mismatch"),
        ("config.ModelConfig", "max_model_len", "mismatch"),
        ("versions", "torch", "mismatch"),
    ],
)
def test_in_a_cache_that_torch_keys_no_variable_of_vllm_decides(
    tmp_path: Path, group: str, name: str, state: str
) -> None:
    folder = record(tmp_path, with_change(group, name), {"num_models_seen": 1, "fxgraph_cache_miss": 2})
    _, found = explain_start(OF_TORCH, folder)
    assert (found.subject, found.state) == (f"{group}: {name}", state)


def test_a_folder_of_kernels_outside_of_the_restored_cache_is_named(tmp_path: Path) -> None:
    folder = record(tmp_path, baked(), MISS)
    facts = json.loads((folder / "0.json").read_text())
    facts["factors"]["paths"] = {"VLLM_CACHE_ROOT": "/tmp/c", "TORCHINDUCTOR_CACHE_DIR": "/tmp/x"}
    (folder / "0.json").write_text(json.dumps(facts))
    (first, found) = explain_start(REPORT, folder)
    assert (found.subject, found.text) == (
        "paths: TORCHINDUCTOR_CACHE_DIR",
        "/tmp/x is outside of the restored cache",
    )
    assert "damaged" not in first.remedy


def cache(**variables: str) -> CompiledCache:
    factors: dict[str, Any] = {
        "key": {"VLLM_PLUGINS": ["x"], "VLLM_USE_AOT_COMPILE": ["x"]},
        "variables": {name: [digest(value)] for name, value in variables.items()},
        "paths": {"site-packages": ["/usr/lib/python3/dist-packages"]},
    }
    serving = {"model": "/opt/ml/model", "tp": 1}
    proof = {
        "counters": {},
        "largest_difference": 0.0,
        "reference_difference": None,
        "control": ["1 run(s) of a compiler"],
    }
    files = [{"path": "torch_compile_cache/a", "size": 3, "digest": "sha256:" + "0" * 64, "pickle": True}]
    data = {
        "factors": factors,
        "serving": serving,
        "dialect": "M",
        "device": "cuda",
        "isolated": True,
        "proof": proof,
        "files": files,
    }
    return cache_of(written("cache.tar.gz", b"x"), written("bake.json", json.dumps(data).encode()))


def test_before_a_start_variables_and_places_of_this_machine_are_compared() -> None:
    made = cache(VLLM_USE_AOT_COMPILE="1", VLLM_DIST_IDENT="of one run")
    assert set(made.variables) == {"VLLM_USE_AOT_COMPILE"}
    assert made.contains_pickle
    place = made.site_packages
    assert [each.state for each in explain_machine(made, "0.32.0", {"VLLM_USE_AOT_COMPILE": "1"}, place)] == ["ok"]
    environment = {"VLLM_PLUGINS": "a", "VLLM_USE_AOT_COMPILE": "0", "VLLM_LOGGING_LEVEL": "DEBUG", "HOME": "/h"}
    found = explain_machine(made, "0.32.0", environment, "/opt/venv")
    assert [(each.subject, each.state) for each in found] == [
        ("variables: VLLM_PLUGINS", "mismatch"),
        ("variables: VLLM_USE_AOT_COMPILE", "mismatch"),
        ("paths: site-packages", "mismatch"),
    ]
