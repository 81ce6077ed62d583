"""Every property that a release knows is used, reported as without effect, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import RefusedError, UsageError
from compiler.lmi.backends import BACKEND_VALUES, ENVIRONMENT, INSTEAD, RENAMED, TABLES
from compiler.lmi.effects import QUANTIZATION
from compiler.lmi.from_properties import LmiRequest, request_of_properties
from compiler.lmi.options import BY_NAME, OPTIONS, Option
from compiler.quantization.request import Text

FIXED = TABLES["trtllm"].fixed
IMAGES = {(0, 28): "0.28.0", (0, 33): "0.33.0"}


def _request(folder: Path, text: str, image: str = "") -> LmiRequest:
    file = folder / "serving.properties"
    file.write_text(text)
    return request_of_properties(file, image, Text())


def _value(option: Option) -> str:
    allowed = FIXED.get(option.name, ())
    if option.name == "option.dtype":
        return "fp16"
    if allowed:
        return str(allowed[0]).lower()
    return (
        option.choices[0] if option.choices else {"int": "1", "float": "1.0", "bool": "false", "text": "x"}[option.kind]
    )


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.name not in QUANTIZATION], ids=lambda option: option.name)
def test_no_property_is_dropped_in_silence(option: Option, tmp_path: Path) -> None:
    image = IMAGES[(0, 33)] if option.since >= (0, 30) else IMAGES[(0, 28)] if option.since <= (0, 28) else "0.29.0"
    text = f"{option.name}={_value(option)}\n"
    if option.name in FIXED and not FIXED[option.name]:
        with pytest.raises(RefusedError, match=r"line 1: .* cannot be honored"):
            _request(tmp_path, text, image)
        return
    if option.until is not None and option.until <= (0, 28):
        return
    found = _request(tmp_path, text, image)
    assert len([*found.lines.values(), *found.ignored]) == 1, found


def test_tables_name_properties_that_exist() -> None:
    for table in TABLES.values():
        shared = TABLES["vllm"].by_name if table.name == "lmi-dist" else {}
        tables = {*table.used, *table.fixed, *table.features, *table.no_effect, *table.quantizes}
        assert tables <= {*table.by_name, *shared}, table.name
        assert len(table.by_name) == len(table.options), table.name
        assert all(option.until is None or option.since < option.until for option in table.options)
    assert {*BACKEND_VALUES, *RENAMED.values(), *ENVIRONMENT.values()} <= {*BY_NAME}
    assert {*INSTEAD} <= {name for table in TABLES.values() for name in table.by_name} - {*BY_NAME}
    assert not {*RENAMED} & {*BY_NAME}


@pytest.mark.parametrize(
    ("text", "backend", "values"),
    [
        (
            "engine=Python\noption.rolling_batch=vllm\noption.max_model_len=2656\noption.max_rolling_batch_size=4\n",
            "vllm",
            {"max_positions": "2656", "max_batch": "4"},
        ),
        (
            "engine=MPI\noption.rolling_batch=lmi-dist\noption.model_id=a/b\noption.revision=x\noption.dtype=bf16\n",
            "lmi-dist",
            {"model": "a/b", "revision": "x", "dtype": "bfloat16"},
        ),
        (
            "engine=DeepSpeed\noption.max_tokens=2048\noption.tensor_parallel_degree=max\n",
            "deepspeed",
            {"max_positions": "2048", "tp": "max"},
        ),
        (
            "option.entryPoint=djl_python.transformers_neuronx\noption.n_positions=512\noption.batch_size=4\n",
            "neuronx",
            {"max_positions": "512", "max_batch": "4"},
        ),
        ("option.entryPoint=djl_python.huggingface\noption.data_type=fp16\n", "accelerate", {"dtype": "float16"}),
        ("option.tensor_parallel_degree=2\n", "trtllm", {"tp": "2"}),
    ],
)
def test_sizes_of_every_back_end_are_used(text: str, backend: str, values: dict[str, str], tmp_path: Path) -> None:
    found = _request(tmp_path, text)
    assert (found.backend.name, found.values) == (backend, values)
    named = text.count("\n")
    assert len([*found.lines, *found.ignored, *found.quant_lines]) == named, found


def test_the_image_selects_the_back_end_of_a_file_that_does_not(tmp_path: Path) -> None:
    kinds = {"0.33.0-lmi15.0.0-cu128": "vllm", "0.26.0-deepspeed0.12.6-cu121": "deepspeed", "0.36.0": "vllm"}
    kinds |= {"0.29.0-neuronx-sdk2.19.1": "neuronx", "0.30.0-tensorrtllm0.12.0-cu125": "trtllm", "0.30.0": "trtllm"}
    for image, backend in kinds.items():
        assert _request(tmp_path, "option.dtype=fp16\n", image).backend.name == backend, image
    with pytest.raises(UsageError, match=r"are for vLLM; `--image 0\.30\.0-trtllm` has none"):
        _request(tmp_path, "option.rolling_batch=vllm\n", "0.30.0-trtllm")
    with pytest.raises(UsageError, match=r"line 1: `engine=DeepSpeed` and `option.rolling_batch=vllm` select two"):
        _request(tmp_path, "engine=DeepSpeed\noption.rolling_batch=vllm\n")


@pytest.mark.parametrize(
    ("lines", "scheme", "warned"),
    [
        ("option.rolling_batch=vllm\noption.quantize=awq\n", "", "quantized already"),
        ("option.rolling_batch=lmi-dist\noption.quantize=fp8\n", "fp8", ""),
        ("engine=DeepSpeed\noption.quantize=smoothquant\noption.smoothquant_alpha=0.65\n", "smoothquant", ""),
        ("option.entryPoint=djl_python.transformers_neuronx\noption.load_in_8bit=True\n", "int8-weight", ""),
        ("option.rolling_batch=trtllm\noption.quantize=awq\n", "awq", ""),
    ],
)
def test_quantize_means_what_the_back_end_does(lines: str, scheme: str, warned: str, tmp_path: Path) -> None:
    found = _request(tmp_path, lines)
    assert (found.quant.scheme.name if found.quant.scheme else "") == scheme
    assert warned in " ".join(found.warnings)
    assert found.quant_lines
    with pytest.raises(RefusedError, match=r"line 2: .*bitsandbytes"):
        _request(tmp_path, "option.rolling_batch=lmi-dist\noption.quantize=bitsandbytes\n")


def test_in_an_optimization_job_vllm_s_quantize_is_an_order(tmp_path: Path) -> None:
    file = tmp_path / "serving.properties"
    file.write_text("option.rolling_batch=vllm\noption.quantize=awq\n")
    for serves in ((), ("vllm",)):
        found = request_of_properties(file, "", Text(), serves, environment={})
        assert found.quant.scheme is not None
        assert (found.quant.scheme.name, found.warnings, found.carried) == ("awq", (), {})
    file.write_text("option.rolling_batch=vllm\noption.quantize=gptq\n")
    with pytest.raises(RefusedError, match=r"line 2: `option.quantize=gptq` rounds as vLLM"):
        request_of_properties(file, "", Text(), environment={})


def test_what_only_the_server_has_is_refused_or_carried(tmp_path: Path) -> None:
    text = "option.rolling_batch=vllm\noption.enable_lora=true\noption.max_loras=2\njob_queue_size=7\n"
    with pytest.raises(RefusedError, match=r"line 2: `option.enable_lora=True` changes answers"):
        _request(tmp_path, text)
    file = tmp_path / "serving.properties"
    served = request_of_properties(file, "", Text(), serves=("vllm",))
    assert served.carried == {"option.enable_lora": "true", "option.max_loras": "2", "job_queue_size": "7"}
    assert [line.split()[1] for line in served.carried_lines] == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("image", "more", "rows"),
    [
        ("0.26.0", "", "32"),
        ("0.27.0", "", "32"),
        ("0.27.0", "option.max_num_tokens=512\n", "256"),
        ("0.30.0", "", "256"),
        ("0.30.0", "option.max_rolling_batch_size=5\n", "5"),
    ],
)
def test_the_default_number_of_rows_follows_the_release(image: str, more: str, rows: str, tmp_path: Path) -> None:
    file = tmp_path / "serving.properties"
    file.write_text(f"option.rolling_batch=trtllm\n{more}")
    assert request_of_properties(file, image, Text(), serves=("trtllm",)).values["max_batch"] == rows


def test_keys_without_their_prefix_count_for_nothing(tmp_path: Path) -> None:
    found = _request(tmp_path, "tensor_parallel_degree=4\ndtype=fp16\noption.device_map=auto\nmaxWorkers=1\n")
    assert not found.values
    assert [reason.split(",")[0] for reason in found.ignored.values()] == [
        "the front end passes on `option.tensor_parallel_degree` only",
        "the front end passes on `option.dtype` only",
        "TensorRT-LLM does not read this property of Hugging Face Accelerate",
        "read when the artifact is served: set it there",
    ]


def test_a_container_s_environment_is_a_request_too(tmp_path: Path) -> None:
    file = tmp_path / "container.env"
    file.write_text("OPTION_MAX_MODEL_LEN=128\nHF_MODEL_ID=a/b\nOPTION_ROLLING_BATCH=vllm\nHF_TOKEN=secret\n")
    found = request_of_properties(file, "", Text())
    assert found.values == {"max_positions": "128", "model": "a/b"}
    assert found.ignored["line 4 `HF_TOKEN`"] == "no property"
    assert "secret" not in str(found)


def test_the_file_has_precedence_over_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "serving.properties"
    file.write_text("option.tensor_parallel_degree=2\n")
    given = {"OPTION_TENSOR_PARALLEL_DEGREE": "4", "OPTION_DTYPE": "fp16", "PATH": "/bin"}
    found = request_of_properties(file, "", Text(), environment=given)
    assert found.values == {"tp": "2", "dtype": "float16"}
    assert found.lines["dtype"] == "environment `option.dtype`"


def test_lengths_add_up(tmp_path: Path) -> None:
    found = _request(tmp_path, "option.max_input_len=100\noption.max_output_len=28\n")
    assert found.values == {"max_input_len": "100", "max_positions": "128"}
    assert _request(tmp_path, "option.max_seq_len=64\noption.max_input_len=32\n", "0.33.0").values == {
        "max_positions": "64",
        "max_input_len": "32",
    }


def test_rotary_scaling_takes_both_properties(tmp_path: Path) -> None:
    both = "option.rotary_scaling_type=linear\noption.rotary_scaling_factor=2.5\n"
    assert _request(tmp_path, both).values == {"rope_scaling": "linear:2.5"}
    half = _request(tmp_path, "option.rotary_scaling_factor=2.5\n")
    assert (half.values, len(half.ignored)) == ({}, 1)


def test_a_value_that_changes_the_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"line 1: `option.max_beam_width` cannot be honored with the value `4`"):
        _request(tmp_path, "option.max_beam_width=4\n", "0.33.0")


def test_all_problems_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _request(tmp_path, "option.max_input_len=many\n\noption.tokens=3\noption.dtype=fp16\n")
    first, *lines = caught.value.message.splitlines()
    assert first == f"2 properties of {tmp_path / 'serving.properties'} cannot be used:"
    assert [line.split(":")[0] for line in lines] == ["  line 1", "  line 3"]
