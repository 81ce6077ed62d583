"""Compile what a plan calls for: the target's specs, each by all that decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.artifact.manifest import Device
    from compiler.targets.values import How, Spec

VERSION = 1
"""Of this stage: raised when the same spec gives other outputs."""


@dataclass(frozen=True)
class CompileInputs:
    """Everything that decides the outputs of one spec. `march`: "" where the target has its own idea of it."""

    version: int
    spec: dict[str, Any]
    toolchain: dict[str, str]
    device: dict[str, Any]
    march: str
    stand_in: bool


def inputs_of(spec: Spec, versions: Mapping[str, str], device: Device, how: How, *, stand_in: bool) -> CompileInputs:
    return CompileInputs(
        VERSION, spec.to_json(), dict(versions), device.model_dump(mode="json"), how.march or "", stand_in
    )
