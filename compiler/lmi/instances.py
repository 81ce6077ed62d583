"""SageMaker's accelerated instance types: number of devices for tensor parallelism, and their memory.

Source: the accelerated-computing tables of the Amazon EC2 user guide (instance types G4dn to P5en, Inf2, Trn1, Trn2)
and SageMaker AI's list of instance types. A Neuron device is a NeuronCore: an Inf2 or Trn1 chip has two cores and
32 GiB; a Trn2 chip has eight cores and 96 GiB, which the runtime presents as four by default.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from compiler.errors import UsageError


@dataclass(frozen=True)
class Instance:
    """Instance type. `devices`: the number that `--tp max` takes; `memory`: GiB of one device."""

    accelerator: str
    devices: int
    memory: int


CAPABILITIES: dict[str, str] = {
    "NVIDIA T4": "7.5",
    "NVIDIA A10G": "8.6",
    "NVIDIA L4": "8.9",
    "NVIDIA L40S": "8.9",
    "NVIDIA A100": "8.0",
    "NVIDIA H100": "9.0",
    "NVIDIA H200": "9.0",
}
"""Compute capability of each accelerator. Sources: NVIDIA's list of CUDA GPUs; `LmiUtils.getAWSGpuMachineType` of
djl-serving at v0.29.0 agrees for the accelerators that it has.
"""


def _sizes(family: str, accelerator: str, memory: int, counts: dict[int, str]) -> dict[str, Instance]:
    return {
        f"ml.{family}.{size}": Instance(accelerator, devices, memory)
        for devices, names in counts.items()
        for size in names.split()
    }


_G = {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"}

INSTANCES: dict[str, Instance] = {
    **_sizes("g4dn", "NVIDIA T4", 16, {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge"}),
    **_sizes("g5", "NVIDIA A10G", 24, _G),
    **_sizes("g6", "NVIDIA L4", 24, _G),
    **_sizes("g6e", "NVIDIA L40S", 48, _G),
    **_sizes("p4d", "NVIDIA A100", 40, {8: "24xlarge"}),
    **_sizes("p4de", "NVIDIA A100", 80, {8: "24xlarge"}),
    **_sizes("p5", "NVIDIA H100", 80, {1: "4xlarge", 8: "48xlarge"}),
    **_sizes("p5e", "NVIDIA H200", 141, {8: "48xlarge"}),
    **_sizes("p5en", "NVIDIA H200", 141, {8: "48xlarge"}),
    **_sizes("inf2", "AWS Inferentia2", 16, {2: "xlarge 8xlarge", 12: "24xlarge", 24: "48xlarge"}),
    **_sizes("trn1", "AWS Trainium", 16, {2: "2xlarge", 32: "32xlarge"}),
    **_sizes("trn1n", "AWS Trainium", 16, {32: "32xlarge"}),
    **_sizes("trn2", "AWS Trainium2", 24, {64: "48xlarge"}),
}


def instance(name: str) -> Instance:
    """Instance type of this name, with or without `ml.`. Raises UsageError with the nearest names."""
    full = name if name.startswith("ml.") else f"ml.{name}"
    if full not in INSTANCES:
        near = difflib.get_close_matches(full, INSTANCES, n=3)
        raise UsageError(
            f"no accelerated instance type is called `{name}`",
            hint=f"Nearest: {', '.join(near or ['ml.g5.12xlarge', 'ml.p4d.24xlarge'])}. Or pass `--tp N`.",
        )
    return INSTANCES[full]


def fitting(capability: str, count: int, memory: int) -> list[str]:
    """Instance types with at least `count` GPUs of a compute capability and `memory` bytes each, the smallest first."""
    fits = [
        (found.devices, found.memory, name)
        for name, found in INSTANCES.items()
        if CAPABILITIES.get(found.accelerator) == capability and found.devices >= count and found.memory << 30 >= memory
    ]
    return [name for _, _, name in sorted(fits)]
