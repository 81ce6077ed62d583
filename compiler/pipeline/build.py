"""Build an artifact: the order of the steps, the same for every target. No step knows that it is cached.

fetch -> plan -> [mixture] -> [calibrate -> scales] -> convert -> [gate] -> [judge] -> compile -> package -> verify
                --quant auto    quantized models                quantized  quantized, or targets with a judge
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler import targets
from compiler.artifact import assemble
from compiler.artifact.checkpoint import checkpoint_parts
from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.errors import ArtifactError, NumericsError, RefusedError, ToolchainMissing, UsageError, boundary
from compiler.pipeline import package, parts
from compiler.pipeline.devices import check_proof_device
from compiler.pipeline.job import BuildResult, Job, Prepared, Quality
from compiler.pipeline.located import plan_of
from compiler.pipeline.mixture import mixed
from compiler.pipeline.notes import plan_note
from compiler.pipeline.reach import reach_of
from compiler.pipeline.resolve import locate, plan_with_notes
from compiler.pipeline.runner import CachedRunner
from compiler.pipeline.source_values import check_source
from compiler.pipeline.steps.calibrate import calibration_samples
from compiler.pipeline.steps.compile import compile_specs
from compiler.pipeline.steps.digest import Source, source_digest
from compiler.pipeline.steps.fetch import fetch
from compiler.pipeline.steps.gate import held_out_samples
from compiler.pipeline.weights import expected_logits, rank_files
from compiler.report import Silent
from compiler.storage.cache.stages import open_cache
from compiler.storage.files.folder import disk_errors, normal
from compiler.targets.protocols import stages_of
from compiler.targets.values import Made, Sources

if TYPE_CHECKING:
    from compiler.artifact.manifest import Device
    from compiler.calibration.samples import Samples
    from compiler.numerics.verify import Logits
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.reach import Reach
    from compiler.pipeline.request import BuildRequest, PlanRequest
    from compiler.report import Report
    from compiler.targets.values import Toolchain


def command_of(request: PlanRequest) -> list[str]:
    """The command line that compiles what is asked for, from the headers alone. Raises LmiCompileError."""
    target = targets.load(request.target)
    line = list(target.compiler.command(plan_of(request)))
    if not line:
        raise UsageError(
            f"target `{target.name}` compiles without a command line", hint="`lmi-compile plan` shows what"
        )
    return line


def build(
    request: BuildRequest,
    report: Report | None = None,
    *,
    toolchain: Toolchain | None = None,
    logits: Logits | None = None,
) -> BuildResult:
    """Build the artifact `request.output`: whole, verified and in place, or not at all.

    Without its toolchain, a target with a judge leaves what can be compiled elsewhere, and ToolchainMissing says so.
    `toolchain` and `logits` stand in for the target's compiler and runtime in tests. Raises LmiCompileError.
    """
    target = targets.load(request.target)
    if request.until not in stages_of(target):
        raise UsageError(
            f"`--until` is one of {', '.join(stages_of(target))} for target `{target.name}`; found `{request.until}`",
            hint="leave `--until` out for all of them",
        )
    report = report or Silent()
    cache = open_cache(request.cache, request.resources.shared_cache, warn=report.warn, rehash=request.rehash)
    request = replace(request, output=normal(request.output))
    toolchain = toolchain or target.compiler.toolchain()
    with boundary(step=lambda: report.stage, input=request.model), disk_errors(request.output):
        return _build(Job(request, CachedRunner(cache, report), target, toolchain, logits))


def _build(job: Job) -> BuildResult:
    request, runner, target = job.request, job.runner, job.target
    assemble.check_output(request.output, force=True)
    device, elsewhere = target.compiler.device(request.how), target.packager.elsewhere
    if elsewhere is not None and elsewhere.delegates(request.ask.options or target.options()):
        from compiler.pipeline.elsewhere import leave_command

        leave_command(runner, request, elsewhere)
    reach = reach_of(job.toolchain, stages_of(target), request.until, device.kind, runner.report)
    prepared = _prepare(job)
    model, plan, texts = prepared.model, prepared.plan, prepared.texts
    if request.until == "plan":
        unfinished = BuildResult(request.output, plan, None, runner.made)
        return replace(unfinished, source=source_digest(runner.cache, runner.report, model.source, model.checkpoint))
    check_proof_device(plan.quant)
    runner.cache.sweep()
    # Before any weight is read: a text that is no text ends the build in seconds.
    tokenizer = parts.tokenizer_folder(texts)
    samples = calibration_samples(plan, tokenizer)
    held_out = held_out_samples(plan, tokenizer) if plan.quant.requested else None
    digest = source_digest(runner.cache, runner.report, model.source, model.checkpoint)
    source = Source(plan.config, plan.account.tensors, model.checkpoint, digest)
    try:
        if plan.quant.mixes:
            prepared = mixed(job, prepared, source, samples, held_out, tokenizer)
        _refuse_other(request, prepared.plan, digest)
        return _from_source(job, prepared, source, reach, device, (samples, held_out))
    except NumericsError:
        check_source(plan.ranks, model.checkpoint)
        raise


def _from_source(
    job: Job,
    prepared: Prepared,
    source: Source,
    reach: Reach,
    device: Device,
    texts_of: tuple[Samples | None, Samples | None],
) -> BuildResult:
    """The steps that read weights. `texts_of`: see rank_files. Raises NumericsError, perhaps by the source."""
    request, runner, target, digest = job.request, job.runner, job.target, source.digest
    model, plan, texts = prepared.model, prepared.plan, prepared.texts
    unfinished = BuildResult(request.output, plan, None, runner.made)
    checkpoint, made, quality = model.source.folder, Made((), tokenizer=texts), Quality()
    if target.layout is not None:
        files, quality = rank_files(job, target.layout, prepared, source, *texts_of)
        checkpoint, made = files.folder, replace(made, weights=parts.parts_of(files))
    else:
        made = replace(made, weights=checkpoint_parts(checkpoint))
    if request.until == "convert":
        return unfinished
    if reach.last == "judge":
        result = package.package(
            job, prepared, digest, made, quality, device.model_copy(update={"capability": None}), {}
        )
        reach.check(f"The verified checkpoint is in {request.output}, with what finishes the work")
        return result
    reach.check(f"What comes before compile is done and kept in {request.cache}")
    specs, sources = target.compiler.specs(plan, digest), Sources(checkpoint, texts, runner.cache, model.source.folder)
    proven = quality.reference is not None or plan.copied or job.toolchain.stand_in
    if specs and not proven and request.until != "compile":
        # A source that nothing else can compute ends the build here, and not after the compiler's hours.
        quality = replace(quality, reference=expected_logits(job, prepared, source, made))
    compiled = (
        compile_specs(runner, specs, sources, job.toolchain, reach.versions, device, request.how) if specs else {}
    )
    if request.until == "compile":
        return unfinished
    made = replace(made, compiled=compiled)
    result = package.package(job, prepared, digest, made, quality, device, reach.versions)
    if result.manifest is not None and (left := result.manifest.section.unfinished):
        raise ToolchainMissing(
            f"the rest of target `{target.name}` is compiled elsewhere. {request.output} has what finishes it",
            hint=left,
        )
    return result


def _prepare(job: Job) -> Prepared:
    """The plan; with the weights here, where they will be read."""
    request, report = job.request, job.runner.report
    report.begin("plan")
    model = locate(request) if request.until == "plan" else fetch(request, report.progress)
    if model.checkpoint.whole is not None and job.target.layout is None:
        raise RefusedError(
            f"target `{job.target.name}` packs a model's files as they are; the text part alone has no files",
            hint="leave `--text-only` out, or choose a target that converts weights",
        )
    texts = parts.tokenizer_parts(model.source.folder, request.tokenizer)
    made = plan_with_notes(model, request, request.tokenizer)
    texts = parts.with_text_config(texts, model, made.config.architecture)
    texts += parts.copied_parts(model.source.folder) if made.copied else []
    for note in made.notes:
        report.warn(note)
    job.target.packager.check_tokenizer(made, [part.name for part in texts])
    report.end(plan_note(made))
    return Prepared(model, made, texts)


def _refuse_other(request: BuildRequest, plan: Plan, source: str) -> None:
    """Before any work: what is at the output was built from something else, and may not be replaced."""
    if request.force or not (request.output / MANIFEST).exists():
        return
    try:
        found = load_manifest(request.output)
    except ArtifactError:
        found = None
    if found is None or (found.plan_digest, found.model.source_digest) != (plan.digest, source):
        assemble.check_output(request.output, force=False)
