"""The stages that make files, each behind the cache: found there by what decides its result, or run and put there."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.artifact.parts import Part, media_type
from compiler.build.convert_only import run_convert, written
from compiler.build.compile import inputs_of
from compiler.storage.cache.stages import StageCache, key_of
from compiler.targets.values import TREE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device
    from compiler.build.requests import BuildRequest
    from compiler.report import Report
    from compiler.build.plan import Plan
    from compiler.numerics.verify import Logits
    from compiler.storage.cache.stages import Entry
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.targets.protocols import Target
    from compiler.targets.values import Sources, Spec, Toolchain

_CONVERT_VERSION = 2


@dataclass(frozen=True)
class ConvertInputs:
    """`scales`: digest of what the weights are scaled by, empty where they are not."""

    version: int
    source: str
    plan: str
    scales: str


@dataclass(frozen=True)
class Job:
    """What the stages of one build share. `logits` stands in for what would run the artifact; None: see
    numerics/verify.py.
    """

    request: BuildRequest
    report: Report
    cache: StageCache
    target: Target[Any]
    toolchain: Toolchain
    logits: Logits | None
    made: dict[str, int]


@dataclass(frozen=True)
class Converted:
    """The rank files, and the small files beside them, in one folder."""

    folder: Path
    parts: Sequence[Part]


def converted(job: Job, plan: Plan, checkpoint: Checkpoint, source: str, scales: str) -> Converted:
    """`checkpoint`: with the scales of digest `scales` among its tensors."""
    job.report.begin("convert")
    with job.cache.claim("convert", ConvertInputs(_CONVERT_VERSION, source, plan.digest, scales)) as claim:
        entry = claim.entry
        if entry is None:
            job.made["convert"] = 1
            files = run_convert(plan, checkpoint, claim.folder, job.request.ask.max_memory, job.report)
            entry = claim.commit(files=files)
    job.report.end(written(plan) if entry.fresh else "cached")
    return Converted(entry.folder, parts_of(entry))


def compiled(
    job: Job, plan: Plan, sources: Sources, source: str, device: Device, versions: dict[str, str]
) -> dict[str, Sequence[Part]]:
    """The outputs of every spec, by its name; what is not in the cache is compiled in one call."""
    how, report = job.request.how, job.report
    report.begin("compile")
    keyed = {}
    for spec in job.target.compiler.specs(plan, source):
        inputs = inputs_of(spec, versions, device, how, stand_in=job.toolchain.stand_in)
        keyed[key_of("compile", inputs)] = (spec, inputs)
    entries: dict[str, Entry] = {}
    with ExitStack() as stack:
        missing = {}
        for _, (spec, inputs) in sorted(keyed.items()):  # by key: see StageCache.claim
            claim = stack.enter_context(job.cache.claim("compile", inputs))
            if claim.entry is None:
                missing[spec.name] = (spec, claim)
            else:
                entries[spec.name] = claim.entry
        if missing:
            job.made["compile"] = len(missing)
            out = stack.enter_context(job.cache.scratch("compile"))

            def keep(done: int, total: int, *, whole: bool = False) -> None:
                """Each result is kept as it is finished: a build that is killed has lost no other."""
                for name, (spec, claim) in missing.items():
                    if claim.entry is None and (files := _outputs(spec, out, whole=whole)):
                        for file in files:
                            file.rename(claim.folder / file.name)
                        entries[name] = claim.commit()
                report.progress(done, total, "results")

            specs = [spec for spec, _ in missing.values()]
            job.toolchain.compile(specs, out, how, device=device, sources=sources, progress=keep)
            keep(len(missing), len(missing), whole=True)
    report.end(f"{len(keyed)} results, {len(keyed) - len(missing)} of them cached")
    return {name: parts_of(entry) for name, entry in sorted(entries.items())}


def _outputs(spec: Spec, out: Path, *, whole: bool) -> list[Path]:
    """The outputs of a spec that is finished, files and folders; none yet where it is not.

    A tree has no name to look for, so it is finished when the toolchain is (`whole`).
    """
    if spec.outputs == TREE:
        return sorted((out / spec.name).iterdir()) if whole and (out / spec.name).is_dir() else []
    files = [out / output for output in spec.outputs]
    return files if all(file.exists() for file in files) else []


def parts_of(entry: Entry) -> list[Part]:
    """Every file of a cache entry, under its name there."""
    return [Part(replace(file, media_type=media_type(file.path)), entry.folder / file.path) for file in entry.files]
