"""Device that packages compiled on this machine require."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.machine import LEVELS, beyond, features, isa

if TYPE_CHECKING:
    from compiler.artifact.manifest import Device
    from compiler.targets.values import How

MARCH = "x86-64-v3"
"""Default march: any server CPU since 2013."""


def device(how: How) -> Device:
    """Requirements of packages compiled here on the machine that runs them.

    Raises UsageError for an unknown march, or a device that this machine lacks.
    """
    # Imported here, because the target is also loaded for plan and convert, which have no manifest.
    from compiler.artifact.check import this_machine
    from compiler.artifact.manifest import Device

    march = how.march or MARCH
    if how.device not in (None, "cpu", "cuda"):
        raise UsageError(
            f"`--device` takes cpu or cuda for target `inductor`; found `{how.device}`", hint="omit it for the CPU"
        )
    if how.device == "cuda":
        if how.march is not None:
            raise UsageError(
                f"`--march` selects a CPU; found `--march {how.march}` with `--device cuda`",
                hint="omit it, or build with `--device cpu`",
            )
        capability = this_machine(cuda=True).capability
        if capability is None:
            raise UsageError(
                "`--device cuda` compiles on a GPU of the kind that will run the package; torch finds none here",
                hint="build on a machine with the GPU and a CUDA build of torch, or with `--device cpu`",
            )
        return Device(kind="cuda", capability=capability)
    if march == "native":
        level = isa()
        return Device(kind="cpu", isa=level, features=beyond(level, features()) if level in LEVELS else ())
    if march not in LEVELS:
        raise UsageError(
            f"`--march` takes native or a level of x86-64; found `{march}`", hint=f"levels: {', '.join(LEVELS)}"
        )
    if isa() not in LEVELS:
        return Device(kind="cpu", isa=isa())
    return Device(kind="cpu", isa=march)
