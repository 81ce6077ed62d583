"""The rank files of a model, without the cache and without a manifest.

Apart from the other stages: nothing that only an artifact needs (pydantic, for one) is imported for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlib_ng.zlib_ng import crc32

from compiler.errors import UsageError
from compiler.pipeline.requests import prepare
from compiler.report import Silent, amount
from compiler.stages.convert import convert
from compiler.store.folder import disk_errors, locked_folder, normal, place
from compiler.summary import plan_note

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.pipeline.requests import PlanRequest, Prepared
    from compiler.report import Report
    from compiler.stages.plan import Plan
    from compiler.store.digest import Descriptor
    from compiler.store.writer import Crc32


def convert_to(request: PlanRequest, output: Path, report: Report | None = None) -> Plan:
    """The rank files of a model in the new folder `output`, without the cache. Raises LmiCompileError."""
    report, output = report or Silent(), normal(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty", hint="`--output` takes a folder that does not exist yet")
    with disk_errors(output):
        report.begin("plan")
        prepared = prepare(request, "all")
        report.end(plan_note(prepared.plan))
        report.begin("convert")
        part = output.with_name(f".{output.name}.part")
        with locked_folder(part):
            run_convert(prepared, part, request.ask.max_memory, report, crc=None)  # no manifest, nothing to check
            place(part, output)
        report.end(written(prepared.plan))
    return prepared.plan


def run_convert(
    prepared: Prepared, folder: Path, max_memory: int, report: Report, crc: Crc32 | None = crc32
) -> list[Descriptor]:
    """Rank files and small files of the plan into `folder`; descriptors of the rank files. `crc`: see `RankFile`."""
    done = convert(
        prepared.plan.ranks,
        prepared.checkpoint,
        folder,
        max_memory=max_memory,
        progress=lambda count, total: report.progress(count, total, "bytes"),
        crc=crc,
    )
    for name, data in prepared.plan.files.items():
        (folder / name).write_bytes(data)
    return done


def written(plan: Plan) -> str:
    return f"{len(plan.ranks)} rank file(s), {amount(sum(rank.nbytes for rank in plan.ranks), 'bytes')}"
