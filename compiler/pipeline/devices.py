"""Accelerators of a machine: tensor parallelism by their number, `--tp max`, and the device of calibration and gate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import ToolchainMissing, UsageError
from compiler.lmi.instances import accelerated
from compiler.machine import cuda_capability, gpus
from compiler.model.parallel import largest_parallel
from compiler.pipeline.located import located_for_plan
from compiler.quantization.proof_levels import CUDA

if TYPE_CHECKING:
    from compiler.pipeline.request import PlanRequest
    from compiler.quantization.request import Quant


def with_largest_tp(request: PlanRequest, instance_type: str | None) -> PlanRequest:
    """Request with the most ranks that the model can be split over on an instance type; None: on this machine.

    Reads config.json and headers. Raises LmiCompileError.
    """
    config = located_for_plan(request).config(request.ask)
    return replace(request, ask=replace(request.ask, tp=largest_parallel(config, _devices(instance_type))))


def check_proof_device(quant: Quant) -> None:
    """Raise ToolchainMissing where calibration and gate are to run on a GPU and torch finds none."""
    if quant.requested and quant.device == CUDA and cuda_capability() is None:
        raise ToolchainMissing(
            "`--proof-device cuda` calibrates and gates on a GPU of this machine; torch finds none",
            hint="leave `--proof-device` out, or build where a CUDA build of torch sees a GPU",
        )


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
