"""Convert: the rank files of a plan, and the small files beside them, behind the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlib_ng.zlib_ng import crc32

from compiler.pipeline.notes import ranks_text
from compiler.pipeline.rank_files import convert as stream
from compiler.pipeline.runner import Output, Step
from compiler.report import progress_in

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.pipeline.plan import Plan
    from compiler.pipeline.runner import CachedRunner
    from compiler.pipeline.steps.scales import Scaled
    from compiler.report import Report
    from compiler.storage.cache.stages import CacheEntry
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.files.digest import Descriptor
    from compiler.storage.files.writer import Crc32

_VERSION = 2


@dataclass(frozen=True)
class ConvertInputs:
    """Cache key. `scales`: digest of the scales, empty where there are none."""

    version: int
    source: str
    plan: str
    scales: str


def convert(runner: CachedRunner, plan: Plan, source_digest: str, scaled: Scaled, max_memory: int) -> CacheEntry:
    """The entry with the rank files. Raises the errors of `rank_files.convert`."""

    def run(folder: Path) -> Output:
        return Output(files=write_files(plan, scaled.checkpoint, folder, max_memory, runner.report))

    inputs = ConvertInputs(_VERSION, source_digest, plan.digest, scaled.digest)
    return runner.run(Step("convert", inputs, run, lambda _: ranks_text(plan)))


def write_files(
    plan: Plan, checkpoint: Checkpoint, folder: Path, max_memory: int, report: Report, crc: Crc32 | None = crc32
) -> list[Descriptor]:
    """Rank files and small files of the plan into `folder`; descriptors of the rank files. `crc`: see `RankFile`."""
    progress = progress_in(report, "bytes")
    done = stream(plan.ranks, checkpoint, folder, max_memory=max_memory, progress=progress, crc=crc)
    for name, data in plan.files.items():
        (folder / name).write_bytes(data)
    return done
