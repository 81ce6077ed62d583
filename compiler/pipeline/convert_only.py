"""The rank files of a model, without a manifest; only calibration and scales are cached.

Apart from the build: nothing that only an artifact needs (pydantic, for one) is imported for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import UsageError, boundary
from compiler.pipeline.notes import plan_note, ranks_text
from compiler.pipeline.resolve import plan_with_notes
from compiler.pipeline.runner import CachedRunner
from compiler.pipeline.steps.calibrate import calibration_samples
from compiler.pipeline.steps.convert import write_files
from compiler.pipeline.steps.digest import Source, source_digest
from compiler.pipeline.steps.fetch import fetch
from compiler.pipeline.steps.scales import with_scales
from compiler.report import Silent
from compiler.storage.cache.stages import open_cache
from compiler.storage.files.folder import disk_errors, locked_folder, normal, place
from compiler.targets import load

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.pipeline.plan import Plan
    from compiler.pipeline.request import PlanRequest
    from compiler.pipeline.resolve import LocatedModel
    from compiler.report import Report
    from compiler.storage.checkpoints.checkpoint import Checkpoint


def convert_to(request: PlanRequest, output: Path, report: Report | None = None) -> Plan:
    """The rank files of a model in the new folder `output`. No gate judges the loss of quantization: `build` does.

    Raises LmiCompileError.
    """
    report, output, max_memory = report or Silent(), normal(output), request.resources.max_memory
    if load(request.target).layout is None:
        raise UsageError(
            f"target `{request.target}` has no rank files", hint="`lmi-compile build` packs the model's own files"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty", hint="`--output` takes a folder that does not exist yet")
    with boundary(step=lambda: report.stage, input=request.model), disk_errors(output):
        report.begin("plan")
        model = fetch(request, report.progress)
        plan = plan_with_notes(model, request)
        if plan.quant.mixes:
            raise UsageError(
                "`convert` measures no costs, which `--quant auto` chooses by",
                hint="`lmi-compile build --until convert`, or `convert` with one scheme",
            )
        for note in plan.notes:
            report.warn(note)
        report.end(plan_note(plan))
        checkpoint = _with_scales(request, model, plan, report) if plan.quant.requested else model.checkpoint
        report.begin("convert")
        part = output.with_name(f".{output.name}.part")
        with locked_folder(part):
            # No manifest, nothing to check: no CRC.
            write_files(plan, checkpoint, part, max_memory, report, crc=None)
            place(part, output)
        report.end(ranks_text(plan))
    return plan


def _with_scales(request: PlanRequest, model: LocatedModel, plan: Plan, report: Report) -> Checkpoint:
    """The checkpoint of a quantized model, with scales among its tensors."""
    samples = calibration_samples(plan, model.source.folder)
    runner = CachedRunner(open_cache(request.cache, None, warn=report.warn), report)
    digest = source_digest(runner.cache, report, model.source, model.checkpoint)
    source = Source(plan.config, plan.account.tensors, model.checkpoint, digest)
    return with_scales(runner, source, plan, samples, request.resources.max_memory).checkpoint
