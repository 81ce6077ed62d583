"""Look-up of SageMaker's instance types by name, by compute capability and by memory."""

from __future__ import annotations

import difflib

from compiler.errors import UsageError
from compiler.lmi.instance_table import INSTANCES, READ, Instance


def instance(name: str) -> Instance:
    """Instance type of this name, with or without `ml.`. Raises UsageError with the nearest names."""
    full = full_name(name)
    if full in INSTANCES:
        return INSTANCES[full]
    near = ", ".join(difflib.get_close_matches(full, INSTANCES, n=3) or ["ml.g5.12xlarge", "ml.p4d.24xlarge"])
    if full in _service_names():
        raise UsageError(
            f"SageMaker hosts `{full}`, whose devices and memory are not in the table of {READ}",
            hint=f"use another type; nearest: {near}",
        )
    raise UsageError(f"SageMaker hosts no instance type called `{name}`", hint=f"nearest: {near}")


def accelerated(name: str) -> Instance:
    """Instance type of this name with GPUs or NeuronCores. Raises UsageError where it has none."""
    found = instance(name)
    if not found.devices:
        raise UsageError(
            f"`{found.name}` has no accelerators ({found.vcpus} vCPUs, {found.ram:g} GiB)",
            hint="pass `--tp N`, or a type with accelerators such as ml.g5.12xlarge",
        )
    return found


def full_name(name: str) -> str:
    """Name as SageMaker spells it: `g5.xlarge` is `ml.g5.xlarge`."""
    return name if name.startswith("ml.") else f"ml.{name}"


def fitting(capability: str, count: int, memory: int, share: float = 1.0) -> list[str]:
    """Instance types with at least `count` GPUs of a compute capability, the smallest first; `memory` bytes are at most
    `share` of that of each.
    """
    fits = [
        (found.devices, found.device_mib, name)
        for name, found in INSTANCES.items()
        if found.capability == capability and found.devices >= count and found.device_bytes * share >= memory
    ]
    return [name for _, _, name in sorted(fits)]


def _service_names() -> list[str]:
    """Names that the installed botocore knows."""
    import botocore.session

    service = botocore.session.get_session().get_service_model("sagemaker")
    return list(service.shape_for("ProductionVariantInstanceType").metadata["enum"])
