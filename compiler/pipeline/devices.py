"""Tensor parallelism by the accelerators of a machine: `--tp max`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import UsageError
from compiler.lmi.instances import accelerated
from compiler.machine import gpus
from compiler.model.parallel import largest_parallel
from compiler.pipeline.located import located_for_plan

if TYPE_CHECKING:
    from compiler.pipeline.request import PlanRequest


def with_largest_tp(request: PlanRequest, instance_type: str | None) -> PlanRequest:
    """Request with the most ranks that the model can be split over on an instance type; None: on this machine.

    Reads config.json and headers. Raises LmiCompileError.
    """
    config = located_for_plan(request).config(request.ask)
    return replace(request, ask=replace(request.ask, tp=largest_parallel(config, _devices(instance_type))))


def _devices(instance_type: str | None) -> int:
    """Number of accelerators. Raises UsageError where there are none."""
    if instance_type is not None:
        return accelerated(instance_type).devices
    found = len(gpus()[0])
    if not found:
        raise UsageError(
            "`--tp max` counts accelerators, and this machine has none",
            hint="pass `--instance-type ml.g5.12xlarge` (where the artifact will run), or `--tp N`",
        )
    return found
