"""Instance families with NeuronCores, as the compiler and the runtime see them.

Sources: neuronx-cc's command-line reference and the developer guide of transformers-neuronx in the documentation of AWS
Neuron (August 2026) for targets and degrees of inf2 and trn1. For trn2 no list is published: its degrees are the powers
of two up to its 64 logical cores. Memory of a core: `lmi/instance_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compiler.errors import RefusedError, UsageError
from compiler.lmi.instances import instance


@dataclass(frozen=True)
class Platform:
    """Family of instances. `degrees`: tensor-parallel degrees that the runtime has collectives for; `logical_cores`:
    physical cores of a logical one (`--lnc`), 1: no flag.
    """

    name: str
    degrees: tuple[int, ...]
    logical_cores: int = 1


PLATFORMS: Mapping[str, Platform] = {
    one.name: one
    for one in (
        Platform("inf2", (1, 2, 4, 8, 24)),
        Platform("trn1", (1, 2, 8, 32)),
        Platform("trn1n", (1, 2, 8, 32)),
        Platform("trn2", (1, 2, 4, 8, 16, 32, 64), logical_cores=2),
    )
}
DEFAULT_PLATFORM = "inf2"
"""Platform where no instance type is named."""


def platform_of(instance_type: str) -> Platform:
    """Platform of an instance type; "": the default. Raises UsageError for an unknown type, RefusedError for one
    without NeuronCores of the second generation or later.
    """
    if not instance_type:
        return PLATFORMS[DEFAULT_PLATFORM]
    found = instance(instance_type)
    if found.family not in PLATFORMS:
        raise RefusedError(
            f"target `neuron` compiles for {', '.join(PLATFORMS)}; {found.name} has "
            f"{found.accelerator or 'no accelerator'}",
            hint="pass another `--instance-type`, such as ml.inf2.48xlarge, or leave `--target neuron` out",
        )
    return PLATFORMS[found.family]


def check_degree(tp: int, instance_type: str, splits: Callable[[int], bool] = lambda _tp: True) -> None:
    """Check that the runtime of an instance type has collectives for `tp` ranks. Raises RefusedError, whose hint has
    the degrees that also split the model (`splits`), and UsageError.
    """
    platform = platform_of(instance_type)
    if instance_type and tp not in platform.degrees:
        most = instance(instance_type).devices
        works = [str(degree) for degree in platform.degrees if degree <= most and splits(degree)]
        raise RefusedError(
            f"the runtime of {platform.name} has no collectives for tp {tp}",
            hint=f"`--tp` is one of {', '.join(works)} on {instance_type} for this model",
        )


def platform_named(name: str) -> Platform:
    """Platform of this name. Raises UsageError."""
    if name not in PLATFORMS:
        raise UsageError(f"platforms are {', '.join(PLATFORMS)}; found `{name}`", hint="build the artifact again")
    return PLATFORMS[name]
