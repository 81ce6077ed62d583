"""Comparison of an artifact with an instance type before it is deployed: the container checks too late or never.

The container's errors come after the download: "GPU devices are not enough to run N partitions." (PyModel.java of
djl-serving), or "The engine plan file is generated on an incompatible device, expecting compute 8.0 got compute 8.9,
please rebuild." (TensorRT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import IncompatibleError
from compiler.lmi.instances import CAPABILITIES, fitting, instance

_GIB = 1 << 30


@dataclass(frozen=True)
class Needs:
    """Requirements of an artifact, from its manifest.

    `ranks`: tp x pp devices. `kind`: `cuda` or `cpu`. `capability`: compute capability that it was compiled for, None
    if nothing is compiled yet. `rank_bytes`: size of the largest rank file. `image`: tag of the LMI image that it is
    packed for, or "". `stand_in`: made by a stand-in toolchain of the tests.
    """

    name: str
    kind: str
    ranks: int
    rank_bytes: int
    capability: str | None = None
    image: str = ""
    stand_in: bool = False


def check_fit(needs: Needs, instance_type: str, image: str, target_problems: Sequence[str] = ()) -> None:
    """Check that an instance type and an image can serve an artifact.

    `image`: full name or tag. `target_problems`: reasons of the artifact's target why the image cannot serve it. Raises
    IncompatibleError with all reasons; UsageError for an unknown type of GPU instance.
    """
    stand_in = ["it was made by a stand-in toolchain of the tests"] if needs.stand_in else []
    problems = [*stand_in, *target_problems, *_machine_problems(needs, instance_type)]
    if problems:
        raise IncompatibleError(
            "\n".join(
                [f"`{needs.name}` cannot be served by {instance_type} and {image}:", *(f"  {p}" for p in problems)]
            ),
            hint=_hint(needs),
        )


def _machine_problems(needs: Needs, instance_type: str) -> list[str]:
    if needs.kind != "cuda":
        return []  # its ranks are processes: any number of cores runs them
    machine = instance(instance_type)
    capability = CAPABILITIES.get(machine.accelerator)
    problems = []
    if capability is None:
        problems.append(f"it runs on NVIDIA GPUs; {instance_type} has {machine.accelerator}")
    elif needs.capability is not None and capability != needs.capability:
        problems.append(
            f"it was compiled for compute capability {needs.capability}; "
            f"{machine.accelerator} of {instance_type} has {capability}"
        )
    if machine.devices < needs.ranks:
        problems.append(f"it is split over {needs.ranks} devices; {instance_type} has {machine.devices}")
    if needs.rank_bytes > machine.memory * _GIB:
        problems.append(
            f"{needs.rank_bytes / _GIB:.0f} GiB per rank do not fit in the {machine.memory} GiB of one "
            f"{machine.accelerator}"
        )
    return problems


def _hint(needs: Needs) -> str:
    if needs.capability is None:
        return f"Image: {needs.image}." if needs.image else ""
    types = fitting(needs.capability, needs.ranks, needs.rank_bytes)
    machines = f"Instance types that fit: {', '.join(types[:6])}." if types else "No instance type fits."
    return f"{machines} Image: {needs.image}." if needs.image else machines
