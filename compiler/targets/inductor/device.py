"""What packages compiled on this machine will run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.machine import LEVELS, beyond, features, isa

if TYPE_CHECKING:
    from compiler.artifact.manifest import Device
    from compiler.targets.values import How

MARCH = "x86-64-v3"
"""Unless told otherwise: any server CPU since 2013."""


def device(how: How) -> Device:
    """What packages compiled here, `how`, need of the machine that runs them.

    Raises UsageError where there is no such device or march.
    """
    # Here, because the target is loaded for plan and convert too, which have no manifest.
    from compiler.artifact.check import this_machine
    from compiler.artifact.manifest import Device

    march = how.march or MARCH
    if how.device not in (None, "cpu", "cuda"):
        raise UsageError(f"`--device` is cpu or cuda for target `inductor`; found `{how.device}`")
    if how.device == "cuda":
        if how.march is not None:
            raise UsageError("`--march` is of a CPU", hint="leave it out, or build with `--device cpu`")
        capability = this_machine(cuda=True).capability
        if capability is None:
            raise UsageError(
                "`--device cuda` compiles on the GPU that will run it, and torch sees none here",
                hint="build on a machine with the GPU and a CUDA build of torch, or with `--device cpu`",
            )
        return Device(kind="cuda", capability=capability)
    if march == "native":
        level = isa()
        return Device(kind="cpu", isa=level, features=beyond(level, features()) if level in LEVELS else ())
    if march not in LEVELS:
        raise UsageError(f"`--march` is one of native, {', '.join(LEVELS)}; found `{march}`")
    if isa() not in LEVELS:
        return Device(kind="cpu", isa=isa())
    return Device(kind="cpu", isa=march)
