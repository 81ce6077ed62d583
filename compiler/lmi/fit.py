"""Comparison of an artifact with an instance type before it is deployed: the container checks too late or never.

The container's errors come after the download: "GPU devices are not enough to run N partitions." (PyModel.java of
djl-serving), or "The engine plan file is generated on an incompatible device, expecting compute 8.0 got compute 8.9,
please rebuild." (TensorRT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import IncompatibleError
from compiler.lmi.capacity import USABLE, Demand, Fit, place
from compiler.lmi.instance_table import Instance
from compiler.lmi.instances import fitting, instance

VOLUME_GB = 512
"""Largest storage volume of an instance without local disks (`VolumeSizeInGB` of botocore 1.44.5)."""


@dataclass(frozen=True)
class Needs:
    """Requirements of an artifact, from its manifest.

    `kind`: `cuda`, `cpu`, or a target's own. `demand`: memory of a copy. `size`: bytes of all files. `capability`:
    compute capability that it was compiled for, None if nothing is compiled yet. `isa`: instruction set of its CPU
    packages, or "". `image`: tag of the LMI image that it is packed for, or "". `stand_in`: made by a stand-in of the
    tests.
    """

    name: str
    kind: str
    demand: Demand
    size: int = 0
    capability: str | None = None
    isa: str = ""
    image: str = ""
    stand_in: bool = False


def check_fit(needs: Needs, instance_type: str, image: str, target_problems: Sequence[str] = ()) -> Fit:
    """Copies of an artifact on an instance type, after checking that it and an image can serve the artifact.

    `image`: full name or tag. `target_problems`: reasons of the artifact's target why the image cannot serve it. Raises
    IncompatibleError with all reasons; UsageError for an unknown instance type.
    """
    machine = instance(instance_type)
    found = place(needs.demand, machine, on_processors=needs.kind == "cpu")
    stand_in = ["it was made by a stand-in toolchain of the tests"] if needs.stand_in else []
    device = _device_problems(needs, machine)
    problems = [*stand_in, *target_problems, *device, *_disk_problems(needs, machine)]
    if not device or machine.devices:
        problems += found.problems
    if problems:
        raise IncompatibleError(
            "\n".join(
                [f"`{needs.name}` cannot be served by {machine.name} and {image}:", *(f"  {p}" for p in problems)]
            ),
            hint=_hint(needs),
        )
    return found


def _device_problems(needs: Needs, machine: Instance) -> list[str]:
    """Problems of the kind of device, whatever its memory."""
    has = machine.accelerator or "no accelerator"
    if needs.kind == "cpu":
        arm = needs.isa.startswith(("aarch64", "armv"))
        if not needs.isa or arm == (machine.architecture == "arm64"):
            return []
        return [f"it was compiled for {needs.isa}; {machine.name} has processors of {machine.architecture}"]
    if needs.kind != "cuda":
        return [] if machine.maker == "AWS" else [f"it runs on NeuronCores; {machine.name} has {has}"]
    if not machine.capability:
        return [f"it runs on NVIDIA GPUs; {machine.name} has {has}"]
    if needs.capability is not None and machine.capability != needs.capability:
        gpu = f"{machine.accelerator} of {machine.name}"
        return [f"it was compiled for compute capability {needs.capability}; {gpu} has {machine.capability}"]
    return []


def _disk_problems(needs: Needs, machine: Instance) -> list[str]:
    """A problem of an artifact that is larger than the disk which it is downloaded to."""
    disk = machine.nvme or VOLUME_GB
    if needs.size <= disk * 10**9:
        return []
    kind = "local disks" if machine.nvme else "a volume of at most"
    return [f"its files are {needs.size / 10**9:.0f} GB; {machine.name} has {kind} {disk} GB"]


def _hint(needs: Needs) -> str:
    if needs.capability is None:
        return f"Image: {needs.image}." if needs.image else ""
    types = fitting(needs.capability, needs.demand.ranks, needs.demand.rank_bytes, USABLE)
    machines = f"Instance types that fit: {', '.join(types[:6])}." if types else "No instance type fits."
    return f"{machines} Image: {needs.image}." if needs.image else machines
