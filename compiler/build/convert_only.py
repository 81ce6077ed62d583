"""The rank files of a model, without the cache and without a manifest.

Apart from the other stages: nothing that only an artifact needs (pydantic, for one) is imported for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlib_ng.zlib_ng import crc32

from compiler.errors import UsageError
from compiler.build.requests import prepare
from compiler.build.scaled import samples_of, with_scales
from compiler.build.source import source_digest
from compiler.report import Silent, amount
from compiler.build.convert import convert
from compiler.storage.cache.stages import open_cache
from compiler.storage.files.folder import disk_errors, locked_folder, normal, place
from compiler.build.notes import plan_note

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.build.requests import PlanRequest, Prepared
    from compiler.report import Report
    from compiler.build.plan import Plan
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.files.digest import Descriptor
    from compiler.storage.files.writer import Crc32


def convert_to(request: PlanRequest, output: Path, report: Report | None = None) -> Plan:
    """The rank files of a model in the new folder `output`; only calibration and scales are cached. No gate judges what
    quantisation costs: `build` does. Raises LmiCompileError.
    """
    report, output = report or Silent(), normal(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty", hint="`--output` takes a folder that does not exist yet")
    with disk_errors(output):
        report.begin("plan")
        prepared = prepare(request, "all", report.progress)
        report.end(plan_note(prepared.plan))
        checkpoint = _with_scales(request, prepared, report)
        report.begin("convert")
        part = output.with_name(f".{output.name}.part")
        with locked_folder(part):
            # No manifest, nothing to check: no CRC.
            run_convert(prepared.plan, checkpoint, part, request.ask.max_memory, report, crc=None)
            place(part, output)
        report.end(written(prepared.plan))
    return prepared.plan


def run_convert(
    plan: Plan, checkpoint: Checkpoint, folder: Path, max_memory: int, report: Report, crc: Crc32 | None = crc32
) -> list[Descriptor]:
    """Rank files and small files of the plan into `folder`; descriptors of the rank files. `crc`: see `RankFile`."""
    done = convert(
        plan.ranks,
        checkpoint,
        folder,
        max_memory=max_memory,
        progress=lambda count, total: report.progress(count, total, "bytes"),
        crc=crc,
    )
    for name, data in plan.files.items():
        (folder / name).write_bytes(data)
    return done


def _with_scales(request: PlanRequest, prepared: Prepared, report: Report) -> Checkpoint:
    """What the rank files are made from, with the scales of a quantised model."""
    plan, folder = prepared.plan, prepared.source.folder
    if not plan.quant.asked:
        return prepared.checkpoint
    tokenizer = folder / "tokenizer.json"
    samples = samples_of(plan, tokenizer if tokenizer.is_file() else None)
    cache = open_cache(request.cache, None, warn=report.warn)
    source = source_digest(cache, report, prepared.source, prepared.checkpoint)
    return with_scales(cache, report, prepared, source, samples, request.ask.max_memory).checkpoint


def written(plan: Plan) -> str:
    return f"{len(plan.ranks)} rank file(s), {amount(sum(rank.nbytes for rank in plan.ranks), 'bytes')}"
