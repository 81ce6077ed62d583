"""The order of the stages, and the only place that asks the cache: no stage knows that it is cached.

    resolve -> plan -> convert -> compile -> reference -> package -> verify -> in place

What decides the result of each, and so is its key:

    convert      the source's bytes, the plan
    compile      per package: its spec, the toolchain, the device; not the weights, not the number of layers
    reference    the source's bytes, the config, the text, the versions of torch and transformers; not tp
    verify       the manifest, which has the digest of every file
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.check import check_files
from compiler.artifact.manifest import MANIFEST, Manifest, Model, load_manifest
from compiler.cached import (
    Job,
    VerifyInputs,
    compiled,
    converted,
    measured,
    referenced,
    run_convert,
    source_digest,
    with_numerics,
    written,
)
from compiler.errors import ArtifactError, DiskFullError, ToolchainMissing, UsageError
from compiler.report import Silent, amount
from compiler.requests import prepare
from compiler.stages import compile as compiling
from compiler.stages import package, verify
from compiler.store.cache import StageCache
from compiler.store.digest import canonical_json
from compiler.store.folder import locked_folder
from compiler.summary import numerics_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from compiler.report import Report
    from compiler.requests import BuildRequest, PlanRequest, Prepared
    from compiler.stages.package import Part
    from compiler.stages.plan import Plan

STAGES = ("plan", "convert", "compile", "package", "verify")
"""What `--until` takes."""


@dataclass(frozen=True)
class BuildResult:
    """`manifest` is None where `until` ended the build before there was an artifact. `made`: results that
    were not cached, by stage.
    """

    output: Path
    plan: Plan
    manifest: Manifest | None
    made: dict[str, int]
    up_to_date: bool = False

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "output": str(self.output) if manifest else None,
            "digest": manifest.digest if manifest else None,
            "plan_digest": self.plan.digest,
            "numerics": manifest.numerics.model_dump(mode="json") if manifest and manifest.numerics else None,
            "made": self.made,
            "up_to_date": self.up_to_date,
        }


def convert_to(request: PlanRequest, output: Path, report: Report | None = None) -> Plan:
    """The rank files of a model in the new folder `output`, without the cache. Raises LmiCompileError."""
    report, output = report or Silent(), _normal(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty", hint="`--output` takes a folder that does not exist yet")
    with _disk_errors(output):
        report.begin("plan")
        prepared = prepare(request, "all")
        report.end(plan_note(prepared.plan))
        report.begin("convert")
        part = output.with_name(f".{output.name}.part")
        with locked_folder(part):
            run_convert(prepared, part, request.ask.max_memory, report)
            for name, data in prepared.plan.files.items():
                (part / name).write_bytes(data)
            package.place(part, output)
        report.end(written(prepared.plan))
    return prepared.plan


def build(
    request: BuildRequest,
    report: Report | None = None,
    *,
    toolchain: compiling.Toolchain | None = None,
    logits: verify.Logits | None = None,
) -> BuildResult:
    """Build the artifact `request.output`: whole, verified and in place, or not at all.

    `toolchain` and `logits` stand in for the target's compiler and runtime in tests. Raises LmiCompileError.
    """
    if request.until not in STAGES:
        raise UsageError(f"`--until` is one of {', '.join(STAGES)}; found `{request.until}`")
    report = report or Silent()
    request = replace(request, output=_normal(request.output))
    job = Job(
        request,
        report,
        StageCache(request.cache, warn=report.warn, rehash=request.rehash),
        toolchain or compiling.toolchain_of(request.target),
        logits or verify.run_logits,
        {},
    )
    with _disk_errors(request.output):
        return _build(job)


def _build(job: Job) -> BuildResult:
    request, report = job.request, job.report
    package.check_output(request.output, force=True)
    device = compiling.device_of(request.device, request.march)
    versions = _versions(job)
    report.begin("plan")
    prepared = prepare(request, "metadata" if request.until == "plan" else "all")
    plan, folder = prepared.plan, prepared.source.folder
    texts = package.tokenizer_parts(folder, request.tokenizer)
    if not package.has_vocabulary(texts):
        report.warn(f"{folder} has no tokenizer: the artifact takes token ids; `--tokenizer DIR` adds one")
    report.end(plan_note(plan))
    unfinished = BuildResult(request.output, plan, None, job.made)
    if request.until == "plan":
        return unfinished

    job.cache.sweep()
    source = source_digest(job, prepared)
    _refuse_other(request, plan, source)
    weights = converted(job, prepared, source)
    if request.until == "convert":
        return unfinished
    if isinstance(versions, ToolchainMissing):
        raise ToolchainMissing(
            f"{versions.message}. What comes before compile is done and kept in {request.cache}", hint=versions.hint
        )
    packages = compiled(job, plan, device, versions)
    if request.until == "compile":
        return unfinished

    parts = [*weights, *packages.values(), *texts]
    who = None
    if not job.toolchain.stand_in:
        who, part = referenced(job, prepared, source, texts)
        parts.append(part)
    draft = package.draft_manifest(
        plan,
        name=request.name or f"{_short_name(prepared)}-{plan.target}-tp{plan.tp}-{plan.dtype}",
        model=_model(prepared, source),
        device=device,
        toolchain=versions,
        packages={name: part.descriptor.path for name, part in packages.items()},
        parts=parts,
        stand_in=job.toolchain.stand_in,
    )
    return _finish(job, plan, draft, parts, who)


def _finish(job: Job, plan: Plan, draft: Manifest, parts: Sequence[Part], who: str | None) -> BuildResult:
    """Package, verify, put in place; nothing of it where the output is this very artifact already."""
    request, report, output = job.request, job.report, job.request.output
    measures = who is not None and request.until == "verify"
    inputs = VerifyInputs(verify.VERSION, draft.digest, verify.thresholds(draft))
    known = job.cache.find("verify", inputs) if measures else None
    final = with_numerics(draft, known) if known else draft
    if (known or not measures) and _is_at(output, final, job):
        report.begin("package")
        report.end(f"{output} is up to date")
        return BuildResult(output, plan, final, job.made, up_to_date=True)
    package.check_output(output, force=request.force or _names(output, final))
    part = output.with_name(f".{output.name}.part")
    with locked_folder(part, lambda: report.warn(f"another build is putting {output} in place; waiting")):
        report.begin("package")
        package.assemble(part, parts, job.cache.memo, lambda done, total: report.progress(done, total, "bytes"))
        package.write_manifest(part, draft)
        report.end(f"{len(draft.files)} files, {amount(sum(f.size for f in draft.files), 'bytes')}")
        if request.until == "verify":
            report.begin("verify")
            check_files(draft, part, by="sha256", digest=job.cache.digest)
            verify.check_layout(draft, part)
            final = with_numerics(draft, measured(job, inputs, draft, part, who)) if who else draft
            package.write_manifest(part, final)
            report.end(numerics_text(final))
        # Someone else may have built the same meanwhile: the check is repeated under the lock.
        if not _is_at(output, final, job):
            package.check_output(output, force=request.force or _names(output, final))
            package.place(part, output)
        for file in final.files:
            job.cache.memo.remember(output / file.path, file.digest)
    job.made["package"] = 1
    return BuildResult(output, plan, final, job.made)


def _versions(job: Job) -> dict[str, str] | ToolchainMissing:
    """Of the toolchain; where there is none, what the build will end with after the last stage that needs
    none.
    """
    try:
        return job.toolchain.versions(job.request.device)
    except ToolchainMissing as error:
        if job.request.until not in ("plan", "convert"):
            job.report.warn(f"{error.message}; this build will end after convert")
        return error


def _refuse_other(request: BuildRequest, plan: Plan, source: str) -> None:
    """Before any work: what is at the output was built from something else, and may not be replaced."""
    if request.force or not (request.output / MANIFEST).exists():
        return
    try:
        found = load_manifest(request.output)
    except ArtifactError:
        found = None
    if found is None or (found.plan_digest, found.model.source_digest) != (plan.digest, source):
        package.check_output(request.output, force=False)


def _names(output: Path, manifest: Manifest) -> bool:
    """Whether the folder says that it is this artifact: it may then be put right without asking."""
    path = output / MANIFEST
    return path.is_file() and path.read_bytes() == manifest.to_bytes()


def _is_at(output: Path, manifest: Manifest, job: Job) -> bool:
    """Whether the folder is this artifact, whole."""
    if not _names(output, manifest):
        return False
    try:
        check_files(manifest, output, by="sha256", digest=job.cache.digest)
    except ArtifactError as error:
        job.report.warn(f"{error.message}\nit is put in place again")
        return False
    return True


def _model(prepared: Prepared, source: str) -> Model:
    found, plan = prepared.source, prepared.plan
    return Model(
        source="hub" if found.repo_id else "s3" if found.uri else "local",
        repo_id=found.repo_id,
        revision=found.commit,
        recipe=plan.recipe,
        architecture=plan.config.architecture,
        config=json.loads(canonical_json(plan.config.to_json())),
        source_digest=source,
    )


def _short_name(prepared: Prepared) -> str:
    repo_id = prepared.source.repo_id
    return repo_id.partition("/")[2] if repo_id else prepared.plan.recipe


def plan_note(plan: Plan) -> str:
    return f"{plan.config.architecture}, tp {plan.tp}, {plan.dtype}, {amount(plan.ranks[0].nbytes, 'bytes')} a rank"


def _normal(output: Path) -> Path:
    """Absolute and without `..`: the folder is made beside itself first, so its name must be its own."""
    return Path(os.path.abspath(output))  # noqa: PTH100  # Path.resolve would follow a link at the output


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    """A full disk is told of in one way, whichever stage met it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = Path(error.filename or output).absolute()
        place = next(folder for folder in (place, *place.parents) if folder.exists())
        raise DiskFullError(
            f"no space left at {place}: {shutil.disk_usage(place).free:,} bytes are free",
            hint="free some, or choose another disk with `--output` and LMI_COMPILE_CACHE",
        ) from error
