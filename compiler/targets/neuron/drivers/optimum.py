"""Driver `optimum`: export by optimum-neuron, served by Hugging Face's vLLM container for Neuron.

Sources: optimum-neuron at 213224e6 (August 2026): `optimum/commands/export/neuronx.py` (options; `--instance_type` is
required without Neuron devices), `models/inference/backend/config.py` (neuron_config.json), `get_neuron_config` of its
model classes (continuous batching from two rows on), `docs/source/containers.mdx` (environment). Never run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.targets.neuron.buckets import buckets_of
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
    from compiler.targets.neuron.plan import NeuronPlan

_IMAGE = "huggingface-vllm-inference-neuronx:0.11.0-optimum0.4.4-neuronx-py310-sdk2.26.1-ubuntu22.04"


def lacks(plan: NeuronPlan) -> str:
    """Reason why optimum-neuron cannot have the plan."""
    if reason := unknown_to_nxd(plan):
        return reason
    if plan.buckets != buckets_of(plan.sequence_length):
        return "its command line takes no buckets"
    if plan.heads.sequence_shards > 1:
        return "it does not split the cache over the sequence"
    return ""


def run(plan: NeuronPlan, platform: str) -> VendorRun:
    """Call of `optimum-cli`."""
    argv = (
        "optimum-cli", "export", "neuron", "--model", MODEL, "--task", "text-generation", "--instance_type", platform,
        "--batch_size", str(plan.batch), "--sequence_length", str(plan.sequence_length), "--tensor_parallel_size",
        str(plan.tp), "--torch_dtype", plan.dtype, RESULT,
    )  # fmt: skip
    return VendorRun(argv, {**BUILD_ENVIRONMENT, "NEURON_PLATFORM_TARGET_OVERRIDE": platform})


def required(plan: NeuronPlan) -> list[str]:
    """Files of an export from a local folder."""
    return ["config.json", "neuron_config.json", "model.pt", *shards_in("checkpoint/weights", plan)]


def config(plan: NeuronPlan, platform: str) -> VendorConfig:
    """Values of neuron_config.json; inf2 and trn1n have the code of trn1."""
    target = "trn1" if platform in ("inf2", "trn1", "trn1n") else platform
    values = {
        "batch_size": plan.batch,
        "sequence_length": plan.sequence_length,
        "tp_degree": plan.tp,
        "torch_dtype": plan.dtype,
        "target": target,
        "continuous_batching": plan.batch > 1,
    }
    return VendorConfig("neuron_config.json", (), values)


def served(plan: NeuronPlan) -> ServedAs:
    """Variables of the container's entry point: each is an option of `optimum-cli neuron serve`."""
    return ServedAs(
        environment={
            "SM_ON_MODEL": "/opt/ml/model",
            "SM_ON_BATCH_SIZE": str(plan.batch),
            "SM_ON_SEQUENCE_LENGTH": str(plan.sequence_length),
            "SM_ON_TENSOR_PARALLEL_SIZE": str(plan.tp),
        }
    )


def server(plan: NeuronPlan) -> tuple[str, ...]:
    """Command that the entry point runs."""
    return (
        "optimum-cli", "neuron", "serve", "--model", "{model}", "--port", "{port}", "--batch_size", str(plan.batch),
        "--sequence_length", str(plan.sequence_length), "--tensor_parallel_size", str(plan.tp),
    )  # fmt: skip


DRIVER = VendorDriver(
    name="optimum",
    package="optimum-neuron",
    command="optimum-cli",
    sdk="2.26.1",
    images=dict.fromkeys(("inf2", "trn1", "trn1n"), _IMAGE),
    lacks=lacks,
    run=run,
    required=required,
    config=config,
    served=served,
    compiler="2.21",
    server=server,
)
