"""Drivers: the choice, exact calls, files that must be there, configurations that are compared with the plan."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import ArtifactError, RefusedError, UsageError
from compiler.lmi.images import image_uri, targets_of_image
from compiler.model.config import LayerKind, ModelConfig
from compiler.targets.neuron.drivers.choice import driver_of
from compiler.targets.neuron.drivers.driver import VendorDriver, check_result
from compiler.targets.neuron.options import NeuronOptions
from compiler.targets.neuron.plan import NeuronPlan, neuron_plan

LLAMA = ModelConfig(
    "LlamaForCausalLM", 2, 64, 8, 2, 8, 96, 128, 1e-5, 512, "bfloat16", rotary_dim=8,
    layer_kinds=(LayerKind("gated"),) * 2,
)  # fmt: skip
INF2, TRN2 = "ml.inf2.48xlarge", "ml.trn2.48xlarge"


def plan_for(architecture: str = "LlamaForCausalLM", **more: Any) -> NeuronPlan:
    return neuron_plan(
        replace(LLAMA, architecture=architecture), more.pop("tp", 4), 256, more.pop("rows", (2,)), **more
    )


def driver(name: str = "auto", instance: str = INF2, image: str = "", plan: NeuronPlan | None = None) -> VendorDriver:
    found = driver_of(NeuronOptions(neuron_driver=name, instance=instance, image=image), plan or plan_for())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("architecture", "instance", "name"),
    [
        ("LlamaForCausalLM", INF2, "optimum"),
        ("MixtralForCausalLM", "ml.trn1.32xlarge", "optimum"),
        ("MistralForCausalLM", INF2, "nxdi"),
        ("Qwen2ForCausalLM", TRN2, "nxdi"),
        ("GPTBigCodeForCausalLM", INF2, None),
        ("GPT2LMHeadModel", INF2, None),
    ],
)
def test_auto_takes_the_first_driver_that_is_still_released(architecture: str, instance: str, name: str | None) -> None:
    found = driver_of(NeuronOptions(instance=instance), plan_for(architecture))
    assert (found.name if found else None) == name


def test_the_image_implies_the_driver() -> None:
    assert driver(image="0.30.0-neuronx-sdk2.20.1").name == "tnx"
    assert driver(image="pytorch-inference-vllm-neuronx:0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04").name == "nxdi"
    with pytest.raises(UsageError, match="loads what driver `tnx` makes; found `--neuron-driver optimum`"):
        driver("optimum", image="0.30.0-neuronx-sdk2.20.1")
    with pytest.raises(UsageError, match="no driver is known for the image"):
        driver(image="busybox:1")


@pytest.mark.parametrize("name", ["optimum", "nxdi", "tnx"])
def test_images_of_drivers_serve_this_target_and_imply_the_driver(name: str) -> None:
    for image in driver(name).images.values():
        assert targets_of_image(image) == ("neuron",)
        assert driver(image=image).name == name
    assert image_uri(driver("optimum").images["inf2"], "us-east-1").startswith(
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-vllm-inference-neuronx:"
    )


def test_a_driver_without_a_loader_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(RefusedError, match=r"MixtralForCausalLM: LMI 0\.26 has no loader.*LMI 0\.29 is the first") as e:
        driver("tnx", image="0.26.0-neuronx-sdk2.16.0", plan=plan_for("MixtralForCausalLM"))
    assert "optimum" in e.value.hint
    with pytest.raises(RefusedError, match="its library has no class for it") as e:
        driver("tnx", plan=plan_for("GPTBigCodeForCausalLM"))
    assert e.value.hint == "`--neuron-driver` graph"
    with pytest.raises(RefusedError, match="no image of it serves on trn2"):
        driver("optimum", TRN2)
    with pytest.raises(UsageError, match="`--neuron-driver` is auto, graph, optimum, nxdi, tnx; found `vllm`"):
        driver("vllm")


@pytest.mark.parametrize(
    ("name", "plan", "words"),
    [
        ("optimum", plan_for(token_buckets=(64, 256)), "takes no buckets"),
        ("optimum", plan_for(weights="int8"), "int8 weights"),
        ("nxdi", plan_for(rows=(1, 2)), "one batch size; found 1, 2"),
        ("nxdi", plan_for(tp=2, strategy="shard-over-batch"), "it has no `shard-over-batch`"),
        ("tnx", plan_for(token_buckets=(64, 256)), "decode buckets double from 128"),
        ("tnx", plan_for("GPTJForCausalLM"), "compiles only on a machine with NeuronCores"),
    ],
)
def test_plans_that_a_library_cannot_have_are_refused(name: str, plan: NeuronPlan, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        driver(name, plan=plan)


def test_optimum_is_called_by_its_command_line() -> None:
    run = driver("optimum").run(plan_for(), "inf2")
    assert " ".join(run.argv) == (
        "optimum-cli export neuron --model model --task text-generation --instance_type inf2 --batch_size 2 "
        "--sequence_length 256 --tensor_parallel_size 4 --torch_dtype bfloat16 result"
    )
    assert run.environment["NEURON_PLATFORM_TARGET_OVERRIDE"] == "inf2"
    assert driver("optimum").served(plan_for()).environment == {
        "SM_ON_MODEL": "/opt/ml/model",
        "SM_ON_BATCH_SIZE": "2",
        "SM_ON_SEQUENCE_LENGTH": "256",
        "SM_ON_TENSOR_PARALLEL_SIZE": "4",
    }


def test_scripts_of_libraries_are_python_with_the_plans_sizes() -> None:
    plan = plan_for(continuous_batching=True)
    nxdi = driver("nxdi").run(plan, "trn2").files["compile_nxdi.py"].decode()
    ast.parse(nxdi)
    assert "from neuronx_distributed_inference.models.llama.modeling_llama import NeuronLlamaForCausalLM" in nxdi
    assert "'tp_degree': 4, 'batch_size': 2, 'seq_len': 256" in nxdi
    assert "'logical_nc_config': 2" in nxdi
    tnx = driver("tnx").run(plan, "inf2").files["compile_tnx.py"].decode()
    ast.parse(tnx)
    assert "group_query_attention='replicated-heads'" in tnx
    assert "n_positions=[256], context_length_estimate=[64, 128]" in tnx
    assert "sharded_weights=True" in tnx
    old = driver("tnx", image="0.28.0-neuronx-sdk2.18.2").run(plan, "inf2").files["compile_tnx.py"].decode()
    ast.parse(old)
    assert "sharded_weights" not in old
    assert 'result / "checkpoint"' in old


def test_lmi_gets_the_options_of_the_build() -> None:
    text = driver("tnx").served(plan_for()).files["serving.properties"].decode()
    assert {
        "option.tensor_parallel_degree=4",
        "option.n_positions=256",
        "option.batch_size=2",
        "option.dtype=bf16",
        "option.group_query_attention=replicated-heads",
        "option.context_length_estimate=64,128",
        "option.rolling_batch=disable",
    } <= set(text.splitlines())
    rolling = driver("tnx").served(plan_for(continuous_batching=True)).files["serving.properties"].decode()
    assert {"option.rolling_batch=auto", "option.max_rolling_batch_size=2"} <= set(rolling.splitlines())


def made(folder: Path, one: VendorDriver, plan: NeuronPlan, platform: str = "inf2", **changes: Any) -> Path:
    """What the library of a driver would make, with changed values."""
    for name in one.required(plan):
        path = folder / name.replace("*", "model")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    config = one.config(plan, platform)
    content: dict[str, Any] = {**config.values, **changes}
    for key in reversed(config.place):
        content = {key: content}
    (folder / config.file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["optimum", "nxdi", "tnx"])
def test_a_result_is_taken_if_it_is_whole_and_that_of_the_plan(name: str, tmp_path: Path) -> None:
    one, plan = driver(name), plan_for()
    check_result(one, plan, "inf2", made(tmp_path, one, plan))
    first = next(iter(one.config(plan, "inf2").values))
    with pytest.raises(ArtifactError, match=rf"is not that of the plan:\n  {first}: expected .*; found wrong"):
        check_result(one, plan, "inf2", made(tmp_path, one, plan, **{first: "wrong"}))
    made(tmp_path, one, plan)
    lost = one.required(plan)[-1].replace("*", "model")
    (tmp_path / lost).write_bytes(b"")
    with pytest.raises(ArtifactError, match="is missing or empty"):
        check_result(one, plan, "inf2", tmp_path)
