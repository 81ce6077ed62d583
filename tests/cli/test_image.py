"""The image chooses the target, `--option` reaches the container, and a serving.properties is all the input needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler import targets
from compiler.lmi.images import targets_of_image
from tests.command import Ran, command

ENGINES = "0.30.0-tensorrtllm0.12.0-cu125"


@pytest.fixture
def plan(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[..., Ran]:
    def run(*words: Any, model: bool = True) -> Ran:
        named: list[Any] = ["--model", tiny_checkpoint("llama")] if model else []
        return command("plan", *named, *words, "--json", cache=tmp_path / "cache")

    return run


@pytest.mark.parametrize(
    ("image", "target"),
    [
        (ENGINES, "trtllm"),
        ("0.33.0", "trtllm"),
        ("763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.29.0-neuronx-sdk2.19.1", "neuron"),
        ("0.33.0-lmi15.0.0-cu128", "vllm"),
        ("0.29.0-lmi11.0.0-cu124", "checkpoint"),
        ("0.26.0-deepspeed0.12.6-cu121", "checkpoint"),
        ("vllm/vllm-openai:v0.11.0", "vllm"),
        ("763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:0.11.0-gpu-py312", "vllm"),
        ("public.ecr.aws/neuron/vllm-inference-neuronx:0.9", "neuron"),
        ("lmi-compile:inductor", "inductor"),
        ("0123.dkr.ecr.us-east-1.amazonaws.com/lmi-compile:trtllm", "trtllm"),
    ],
)
def test_an_image_names_its_target(image: str, target: str) -> None:
    assert targets_of_image(image)[0] == target


def test_the_image_chooses_the_target(plan: Callable[..., Ran]) -> None:
    assert plan("--image", ENGINES).json["target"] == "trtllm"
    assert plan("--image", "lmi-compile:inductor").json["target"] == "inductor"
    assert plan().json["target"] == "inductor"
    assert plan("--image", "0.33.0-lmi15.0.0-cu128", "--target", "checkpoint").json["target"] == "checkpoint"
    assert plan("--image", f"my.registry/mirror:{ENGINES}").json["target"] == "trtllm"


def test_a_target_that_contradicts_the_image_is_refused_with_both_names(plan: Callable[..., Ran]) -> None:
    error = plan("--image", ENGINES, "--target", "inductor").error
    assert error["exit_code"] == 2
    assert f"`--image {ENGINES}`" in error["message"]
    assert "target `trtllm`; found `--target inductor`" in error["message"]


def test_an_image_of_a_target_that_is_not_installed_says_so(
    plan: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tuple(name for name in targets.available() if name != "neuron")
    monkeypatch.setattr(targets, "available", lambda: left)
    error = plan("--image", "0.29.0-neuronx-sdk2.19.1").error
    assert "target `neuron`, which is not installed" in error["message"]
    assert "trtllm" in error["hint"]
    assert "does not tell which target" in plan("--image", "busybox:1").error["message"]


def test_options_are_checked_before_a_build(plan: Callable[..., Ran]) -> None:
    known = plan("--image", ENGINES, "--option", "output_formatter=jsonlines", "--option", "use_fused_mlp=true")
    assert known.code == 0
    assert "`--option option.use_fused_mlp=true` has no effect" in known.err
    for word, code, message, hint in (
        ("output_formater=json", 2, "has no property `option.output_formater`", "option.output_formatter"),
        ("predict_timeout=soon", 2, "takes type int; found `soon`", "change the value"),
        ("output_formatter", 2, "takes NAME=VALUE", "jsonlines"),
        ("max_seq_len=4", 4, "begins with LMI 0.33", "Leave it out"),
        ("tensor_parallel_degree=4", 2, "follows from the artifact", "`--tp` decides it"),
    ):
        error = plan("--image", ENGINES, "--option", word).error
        assert (error["exit_code"], message in error["message"], hint in error["hint"]) == (code, True, True), error
    error = plan("--option", "predict_timeout=9").error
    assert "`--option` is an option of target `checkpoint`" in error["message"]


def test_a_serving_properties_is_all_the_input_needed(
    plan: Callable[..., Ran], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "serving.properties"
    model = tiny_checkpoint("llama")
    file.write_text(f"option.model_id={model}\noption.tensor_parallel_degree=2\noption.predict_timeout=77\n")
    ran = plan("--from-properties", file, "--image", ENGINES, model=False)
    assert ran.code == 0, ran.err
    assert (ran.json["target"], ran.json["tp"], ran.json["limits"]["max_batch"]) == ("trtllm", 2, 256)
    assert f"used            line 1 `option.model_id={model}`: `--model {model}`" in ran.err
    assert "carried         line 3 `option.predict_timeout=77`" in ran.err
    assert "default of LMI 0.30 `option.max_rolling_batch_size=256`: `--max-batch 256`" in ran.err
    file.write_text("option.tensor_parallel_degree=2\n")
    error = plan("--from-properties", file, model=False).error
    assert "neither `--model` nor `option.model_id`" in error["message"]


def test_the_environment_of_a_container_is_input_too(plan: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("OPTION_TENSOR_PARALLEL_DEGREE=2\nOPTION_ROLLING_BATCH=vllm\nOPTION_MAX_MODEL_LEN=32\n")
    ran = plan("--from-properties", file)
    assert (ran.json["tp"], ran.json["limits"]["max_positions"]) == (2, 32)
    error = plan("--from-properties", tmp_path / "none").error
    assert "cannot be read" in error["message"]
