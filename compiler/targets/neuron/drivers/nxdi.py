"""Driver `nxdi`: neuronx-distributed-inference, served by its vLLM plugin.

Sources: neuronx-distributed-inference at 4bcdc54 (July 2026): `models/config.py` (NeuronConfig, neuron_config.json),
`models/application_base.py` (compile: model.pt, and weights/ with `save_sharded_checkpoint`), `utils/hf_adapter.py`;
release notes of SDK 2.29: from there on Trn2 and later only, so inf2 and trn1 have the image of SDK 2.28. The plugin
takes a compiled folder from NEURON_COMPILED_ARTIFACTS; without it, it deletes one and compiles anew. Never run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.targets.neuron.drivers.driver import (
    BUILD_ENVIRONMENT,
    MODEL,
    RESULT,
    ServedAs,
    VendorConfig,
    VendorDriver,
    VendorRun,
    shards_in,
    unknown_to_nxd,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.targets.neuron.plan import NeuronPlan

SCRIPT = "compile_nxdi.py"
CLASSES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama.modeling_llama:NeuronLlamaForCausalLM",
    "MistralForCausalLM": "mistral.modeling_mistral:NeuronMistralForCausalLM",
    "MixtralForCausalLM": "mixtral.modeling_mixtral:NeuronMixtralForCausalLM",
    "Qwen2ForCausalLM": "qwen2.modeling_qwen2:NeuronQwen2ForCausalLM",
}
"""Module and class below `neuronx_distributed_inference.models`, by architecture."""
_OLD = "pytorch-inference-vllm-neuronx:0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04"
_NEW = "pytorch-inference-vllm-neuronx:0.16.0-neuronx-py312-sdk2.31.1-ubuntu24.04"

_TEXT = '''\
"""Compiles the model in {model}/ into {result}/ with neuronx-distributed-inference."""
import torch
from neuronx_distributed_inference.models.{module} import {kind}
from neuronx_distributed_inference.utils.hf_adapter import load_pretrained_config

config_class = {kind}.get_config_cls()
values = {values}
values["torch_dtype"] = torch.{dtype}
neuron_config = config_class.get_neuron_config_cls()(**values)
config = config_class(neuron_config, load_config=load_pretrained_config("{model}"))
{kind}("{model}", config).compile("{result}")
'''


def values_of(plan: NeuronPlan, platform: str) -> dict[str, Any]:
    """Arguments of NeuronConfig, besides the dtype."""
    found: dict[str, Any] = {
        "tp_degree": plan.tp,
        "batch_size": plan.batch,
        "seq_len": plan.sequence_length,
        "max_context_length": plan.buckets.context[-1] if plan.buckets.context else plan.sequence_length,
        "enable_bucketing": True,
        "token_generation_buckets": list(plan.buckets.token),
        "is_continuous_batching": plan.continuous_batching,
        "flash_decoding_enabled": plan.heads.sequence_shards > 1,
        "save_sharded_checkpoint": True,
    }
    if plan.buckets.context:
        found["context_encoding_buckets"] = list(plan.buckets.context)
    if plan.continuous_batching:
        found["ctx_batch_size"] = 1
    if platform == "trn2":
        found["logical_nc_config"] = 2
    return found


def run(plan: NeuronPlan, platform: str) -> VendorRun:
    """Call of `compile` by a script; NxD traces on the CPU with the platform named."""
    module, _, kind = CLASSES[plan.config.architecture].partition(":")
    text = _TEXT.format(
        model=MODEL, result=RESULT, module=module, kind=kind, values=values_of(plan, platform), dtype=plan.dtype
    )
    environment = {**BUILD_ENVIRONMENT, "NEURON_PLATFORM_TARGET_OVERRIDE": platform}
    return VendorRun(("python3", SCRIPT), environment, {SCRIPT: text.encode()})


def required(plan: NeuronPlan) -> list[str]:
    """Files of a compiled model with its shards."""
    return ["neuron_config.json", "model.pt", *shards_in("weights", plan)]


def config(plan: NeuronPlan, platform: str) -> VendorConfig:
    """Part `neuron_config` of neuron_config.json."""
    values = values_of(plan, platform) | {"torch_dtype": plan.dtype}
    return VendorConfig("neuron_config.json", ("neuron_config",), values)


def served(plan: NeuronPlan) -> ServedAs:
    """Command of the vLLM plugin's container, whose entry point runs its arguments."""
    command = (
        "vllm", "serve", "/opt/ml/model", "--port", "8080", "--tensor-parallel-size", str(plan.tp), "--max-num-seqs",
        str(plan.batch), "--max-model-len", str(plan.sequence_length),
    )  # fmt: skip
    return ServedAs(command, {"NEURON_COMPILED_ARTIFACTS": "/opt/ml/model"})


def server(plan: NeuronPlan) -> tuple[str, ...]:
    """The container's command with another folder and port."""
    places = {"/opt/ml/model": "{model}", "8080": "{port}"}
    return tuple(places.get(word, word) for word in served(plan).command)


DRIVER = VendorDriver(
    name="nxdi",
    package="neuronx-distributed-inference",
    command="python3",
    sdk="2.28.0 on inf2 and trn1, 2.31.1 on trn2",
    images={"inf2": _OLD, "trn1": _OLD, "trn1n": _OLD, "trn2": _NEW},
    lacks=unknown_to_nxd,
    run=run,
    required=required,
    config=config,
    served=served,
    server=server,
)
