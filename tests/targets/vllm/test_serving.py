"""Arguments and environment of a server."""

from __future__ import annotations

from dataclasses import fields

from compiler.targets.vllm.environment import in_key, pinned, server_environment
from compiler.targets.vllm.serving import ARGUMENTS, Serving, lmi_properties, sagemaker_environment, server_argv

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
