"""Arguments and environment of a server."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from compiler.errors import UsageError
from compiler.model.limits import limits_for
from compiler.targets.vllm.environment import in_key, pinned, server_environment
from compiler.targets.vllm.options import VllmOptions
from compiler.targets.vllm.serving import (
    ARGUMENTS,
    Serving,
    argument_problems,
    lmi_properties,
    sagemaker_environment,
    server_argv,
    with_options,
)
from compiler.targets.vllm.specs import spec_of
from tests.tiny import model_config

SERVING = Serving(tp=2, dtype="bfloat16", max_model_len=256, max_num_seqs=4, max_num_batched_tokens=512, block_size=16)


def test_every_field_of_the_server_is_an_argument() -> None:
    assert {argument.field for argument in ARGUMENTS} | {"model"} == {field.name for field in fields(Serving)}


def test_the_three_forms_have_the_same_values() -> None:
    argv = server_argv(SERVING, "python", "127.0.0.1", 8000)
    flags = dict(zip(argv[3::2], argv[4::2], strict=True))
    properties, variables = lmi_properties(SERVING, {}), sagemaker_environment(SERVING, {})
    for argument in ARGUMENTS:
        if argument.flag in flags:
            name = f"SM_VLLM_{argument.flag[2:].replace('-', '_').upper()}"
            assert properties[argument.prop] == variables[name] == flags[argument.flag]
    assert flags["--model"] == variables["SM_VLLM_MODEL"] == "/opt/ml/model"
    assert "option.model_id" not in properties


def test_options_set_arguments_by_the_names_of_vllm_and_of_lmi() -> None:
    lines = ("max_logprobs=5", "option.seed=3", "--enable-prefix-caching=false", "gpu-memory-utilization=0.8")
    found = with_options(SERVING, lines)
    assert (found.max_logprobs, found.seed, found.gpu_memory_utilization) == (5, 3, "0.8")
    argv = server_argv(found, "python", "127.0.0.1", 8000)
    assert "--no-enable-prefix-caching" in argv
    assert lmi_properties(found, {})["option.enable_prefix_caching"] == "false"
    assert sagemaker_environment(found, {})["SM_VLLM_NO_ENABLE_PREFIX_CACHING"] == ""


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("enforce_eager=true", "effect on its cache is known"),
        ("max_num_seqs=9", "follows from the artifact"),
        ("option.quantize=fp8", "follows from the artifact"),
        ("seed=many", "takes a number"),
        ("async_scheduling=1", "takes `true` or `false`"),
        ("gpu_memory_utilization=2", "takes a number above 0, at most 1"),
    ],
)
def test_other_options_are_refused(line: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        with_options(SERVING, (line,))


def test_an_option_in_the_key_is_another_cache() -> None:
    config, limits = model_config("llama"), limits_for(model_config("llama"), None, 2)

    def key(*serving: str) -> str:
        return str(spec_of(config, 1, "bfloat16", limits, VllmOptions(serving=serving), "plan", "source").to_json())

    assert key() == key()
    assert len({key(), key("max_logprobs=5"), key("async_scheduling=true")}) == 3


def test_variables_that_are_no_argument_or_contradict_the_cache_are_named() -> None:
    cached = asdict(SERVING)
    good = {"SM_VLLM_MODEL": "/opt/ml/model", "SM_VLLM_MAX_MODEL_LEN": "256", "SM_VLLM_SERVED_MODEL_NAME": "a"}
    assert list(argument_problems(good, cached)) == []
    (unknown,) = argument_problems({"SM_VLLM_MAX_MODEL_LENGTH": "256"}, cached)
    assert "SM_VLLM_MAX_MODEL_LEN?" in unknown
    (other,) = argument_problems({"SM_VLLM_MAX_NUM_SEQS": "8"}, cached)
    assert "the cache was made with --max-num-seqs 4" in other
    (switch,) = argument_problems({"SM_VLLM_NO_ASYNC_SCHEDULING": ""}, cached)
    assert "the cache was made with --async-scheduling (default)" in switch


def test_an_empty_argument_is_left_out() -> None:
    assert "--quantization" not in server_argv(SERVING, "python", "127.0.0.1", 8000)


def test_variables_of_the_shell_do_not_reach_the_server() -> None:
    host = {"PATH": "/bin", "VLLM_API_KEY": "secret", "HF_TOKEN": "secret", "VLLM_LOOPBACK_IP": "1.2.3.4"}
    found = server_environment(host, {"A": "1"}, home="/h", temporary="/t", python_path="/p")
    assert found == {"PATH": "/bin", "A": "1", "HOME": "/h", "TMPDIR": "/t", "PYTHONPATH": "/p"}


def test_all_cache_folders_are_below_the_root() -> None:
    found = pinned("J", "cuda", "/tmp/lmi-cache", {"VLLM_USAGE_SOURCE": "image"})
    folders = {name: value for name, value in found.items() if value.startswith("/tmp/lmi-cache")}
    assert {"VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"} <= set(folders)
    assert found["VLLM_USAGE_SOURCE"] == "image"


def test_in_an_unknown_release_every_variable_counts() -> None:
    assert in_key("VLLM_LOGGING_LEVEL", "0.99.0")
    assert not in_key("VLLM_LOGGING_LEVEL", "0.32.0")
    assert in_key("VLLM_ENGINE_READY_TIMEOUT_S", "0.32.0")
