"""Compile what a plan calls for. What a package depends on is in its spec: not the weights, not the number of
layers.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from compiler.artifact.check import this_machine
from compiler.artifact.isa import LEVELS, beyond, features, isa
from compiler.artifact.manifest import Device
from compiler.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

VERSION = 1
"""Of this stage: raised when the same spec gives other packages."""


class Spec(Protocol):
    """A package to compile: `name` is "<segment>.<phase>"; `to_json` is all that decides it besides the
    toolchain.
    """

    @property
    def name(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


class Toolchain(Protocol):
    """The compiler of a target: `targets/<name>/build.py`, or a stand-in of the tests."""

    stand_in: bool

    def versions(self, device: str) -> dict[str, str]:
        """Exact versions of all that decides the bytes of a package. Raises ToolchainMissing."""

    def compile_segments(
        self,
        specs: Sequence[Any],
        out: Path,
        *,
        device: str,
        march: str,
        jobs: int | None,
        progress: Callable[[int, int], None],
    ) -> list[Path]:
        """One package `<name>.pt2` per spec in the folder `out`. Raises CompileError."""


@dataclass(frozen=True)
class CompileInputs:
    """Everything that decides one package."""

    version: int
    spec: dict[str, Any]
    toolchain: dict[str, str]
    device: dict[str, Any]
    march: str
    stand_in: bool


def inputs_of(spec: Spec, versions: Mapping[str, str], device: Device, march: str, *, stand_in: bool) -> CompileInputs:
    return CompileInputs(VERSION, spec.to_json(), dict(versions), device.model_dump(mode="json"), march, stand_in)


def toolchain_of(target: str) -> Toolchain:
    """The real toolchain of a target; importing it does not import torch.

    Raises RefusedError where `build` does not drive it.
    """
    module = importlib.import_module(f"compiler.targets.{target}.build")
    if not hasattr(module, "compile_segments"):
        raise RefusedError(
            f"`build` does not drive target `{target}` yet",
            hint=f"`lmi-compile convert --target {target}` writes its checkpoint.",
        )
    return cast("Toolchain", module)


def device_of(kind: Literal["cpu", "cuda"], march: str) -> Device:
    """What packages compiled here for `kind` and `march` need of the machine that runs them.

    Raises UsageError where there is no such device or march.
    """
    if kind == "cuda":
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
