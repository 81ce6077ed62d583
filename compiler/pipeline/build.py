"""Build an artifact: the order of the steps, the same for every target. No step knows that it is cached.

fetch -> plan -> [calibrate -> scales] -> convert -> [gate] -> [judge] -> compile -> package -> verify -> in place
                  quantized models                quantized  quantized, or targets with a judge
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler import targets
from compiler.artifact import assemble
from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.artifact.statements import with_statements
from compiler.errors import ArtifactError, NumericsError, UsageError, boundary
from compiler.numerics.gate.sides import side_of
from compiler.pipeline import package
from compiler.pipeline.install import Measured, install
from compiler.pipeline.notes import plan_note
from compiler.pipeline.reach import reach_of
from compiler.pipeline.resolve import locate, plan_of, plan_with_notes
from compiler.pipeline.runner import CachedRunner
from compiler.pipeline.source_values import check_source
from compiler.pipeline.steps.calibrate import calibration_samples
from compiler.pipeline.steps.compile import compile_specs
from compiler.pipeline.steps.convert import convert
from compiler.pipeline.steps.digest import Source, source_digest
from compiler.pipeline.steps.fetch import fetch
from compiler.pipeline.steps.gate import held_out_samples, measure_loss, pass_gate
from compiler.pipeline.steps.judge import judge, rank_logits
from compiler.pipeline.steps.reference import quantized_reference, source_reference
from compiler.pipeline.steps.scales import with_scales
from compiler.report import Silent
from compiler.storage.cache.stages import open_cache
from compiler.storage.files.folder import disk_errors, normal
from compiler.targets.protocols import stages_of
from compiler.targets.runners import runner_of
from compiler.targets.values import Made, Sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device, Manifest, Numerics
    from compiler.artifact.parts import Part
    from compiler.calibration.samples import Samples
    from compiler.model.config import ModelConfig
    from compiler.numerics.gate.sides import Side
    from compiler.numerics.verify import Logits
    from compiler.pipeline.plan import Plan
    from compiler.pipeline.reach import Reach
    from compiler.pipeline.request import BuildRequest, PlanRequest
    from compiler.pipeline.resolve import LocatedModel
    from compiler.pipeline.steps.gate import Passed
    from compiler.pipeline.steps.reference import Reference
    from compiler.report import Report
    from compiler.storage.cache.stages import CacheEntry
    from compiler.targets.protocols import RankLayout, Target
    from compiler.targets.values import Toolchain


@dataclass(frozen=True)
class BuildResult:
    """`manifest` is None where `until` ended the build before there was an artifact. `made`: results that were not
    cached, by step. `source`: digest of the source, where the build ended with the plan.
    """

    output: Path
    plan: Plan
    manifest: Manifest | None
    made: dict[str, int]
    up_to_date: bool = False
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "output": str(self.output) if manifest else None,
            "digest": manifest.digest if manifest else None,
            "plan_digest": self.plan.digest,
            "source": self.manifest.model.source_digest if self.manifest else self.source,
            "numerics": manifest.numerics.model_dump(mode="json") if manifest and manifest.numerics else None,
            "quantisation": manifest.quantisation.model_dump(mode="json")
            if manifest and manifest.quantisation
            else None,
            "made": self.made,
            "up_to_date": self.up_to_date,
        }


@dataclass(frozen=True)
class _Job:
    """`logits` stands in for the target's runtime; None: see numerics/verify.py."""

    request: BuildRequest
    runner: CachedRunner
    target: Target[Any]
    toolchain: Toolchain
    logits: Logits | None


@dataclass(frozen=True)
class _Prepared:
    """The model with its weights, its plan, and the parts of its tokenizer."""

    model: LocatedModel
    plan: Plan
    texts: Sequence[Part]


@dataclass(frozen=True)
class _Quality:
    """Findings of the steps on the artifact, as far as they ran."""

    passed: Passed | None = None
    reference: Reference | None = None
    numerics: Numerics | None = None


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
        return _build(_Job(request, CachedRunner(cache, report), target, toolchain, logits))


def _build(job: _Job) -> BuildResult:
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
    runner.cache.sweep()
    # Before any weight is read: a text that is no text ends the build in seconds.
    tokenizer = package.tokenizer_folder(texts)
    samples = calibration_samples(plan, tokenizer)
    held_out = held_out_samples(plan, tokenizer) if plan.quant.requested else None
    digest = source_digest(runner.cache, runner.report, model.source, model.checkpoint)
    _refuse_other(request, plan, digest)
    source = Source(plan.config, plan.account.tensors, model.checkpoint, digest)
    try:
        return _from_source(job, prepared, source, reach, device, (samples, held_out))
    except NumericsError:
        check_source(plan.ranks, model.checkpoint)
        raise


def _from_source(
    job: _Job,
    prepared: _Prepared,
    source: Source,
    reach: Reach,
    device: Device,
    texts_of: tuple[Samples | None, Samples | None],
) -> BuildResult:
    """The steps that read weights. `texts_of`: see _rank_files. Raises NumericsError, perhaps by the source."""
    request, runner, target, digest = job.request, job.runner, job.target, source.digest
    model, plan, texts = prepared.model, prepared.plan, prepared.texts
    unfinished = BuildResult(request.output, plan, None, runner.made)
    checkpoint, made, quality = model.source.folder, Made((), tokenizer=texts), _Quality()
    if target.layout is not None:
        files, quality = _rank_files(job, target.layout, prepared, source, *texts_of)
        checkpoint, made = files.folder, replace(made, weights=package.parts_of(files))
    if request.until == "convert":
        return unfinished
    if reach.last == "judge":
        result = _package(job, prepared, digest, made, quality, device.model_copy(update={"capability": None}), {})
        reach.check(f"The verified checkpoint is in {request.output}, with what finishes the work")
        return result
    reach.check(f"What comes before compile is done and kept in {request.cache}")
    specs, sources = target.compiler.specs(plan, digest), Sources(checkpoint, texts, runner.cache)
    if quality.reference is None and not job.toolchain.stand_in and request.until != "compile":
        # A source that nothing else can compute ends the build here, and not after the compiler's hours.
        quality = replace(quality, reference=_reference(job, prepared, source, made))
    compiled = compile_specs(runner, specs, sources, job.toolchain, reach.versions, device, request.how)
    if request.until == "compile":
        return unfinished
    made = replace(made, compiled=compiled)
    return _package(job, prepared, digest, made, quality, device, reach.versions)


def _prepare(job: _Job) -> _Prepared:
    """The plan; with the weights here, where they will be read."""
    request, report = job.request, job.runner.report
    report.begin("plan")
    model = locate(request) if request.until == "plan" else fetch(request, report.progress)
    texts = package.tokenizer_parts(model.source.folder, request.tokenizer)
    made = plan_with_notes(model, request, request.tokenizer)
    texts = package.with_text_config(texts, model, made.config.architecture)
    for note in made.notes:
        report.warn(note)
    job.target.packager.check_tokenizer(made, [part.name for part in texts])
    report.end(plan_note(made))
    return _Prepared(model, made, texts)


def _rank_files(
    job: _Job,
    layout: RankLayout[Any],
    prepared: _Prepared,
    source: Source,
    samples: Samples | None,
    held_out: Samples | None,
) -> tuple[CacheEntry, _Quality]:
    """The rank files, judged as far as `until` asks for it. `samples`, `held_out`: to calibrate and to judge
    quantization on. Raises NumericsError where it costs more than it may.
    """
    runner, plan, max_memory = job.runner, prepared.plan, job.request.resources.max_memory
    scaled = with_scales(runner, source, plan, samples, max_memory)
    files = convert(runner, plan, source.digest, scaled, max_memory)
    if job.request.until == "convert":
        return files, _Quality()
    paths = [files.folder / rank.file for rank in plan.ranks]

    def side(lowered: ModelConfig | None) -> Side:
        return side_of(layout, plan.config, plan.options, files.folder, paths, max_memory, lowered)

    passed = None
    if held_out is not None:
        verdict = measure_loss(runner, plan, source, scaled.digest, side, held_out)
        passed = pass_gate(runner.report, plan, verdict, scaled, samples, job.request.output)
    if layout.judge is None and passed is None:
        return files, _Quality()  # verify compares what is compiled from them with the source
    reference = source_reference(runner, plan, source, prepared.texts)
    bounds = passed.quantisation.gate.bounds if passed else None
    logits = rank_logits(layout, plan, files.folder, max_memory, side)
    numerics = judge(runner, plan, source.digest, files, logits, reference, bounds)
    return files, _Quality(passed, reference, numerics) if layout.judge is not None else _Quality(passed)


def _reference(job: _Job, prepared: _Prepared, source: Source, made: Made) -> Reference:
    """Logits that compiled files must have: of their own rank files where these are quantized, else of the source."""
    plan, layout = prepared.plan, job.target.layout
    if not plan.quant.requested:
        return source_reference(job.runner, plan, source, prepared.texts)
    assert layout is not None
    assert layout.kernels is not None
    return quantized_reference(job.runner, plan, made.weights, layout.kernels(plan.options), prepared.texts)


def _package(
    job: _Job,
    prepared: _Prepared,
    digest: str,
    made: Made,
    quality: _Quality,
    device: Device,
    versions: Mapping[str, str],
) -> BuildResult:
    """The artifact in its place. `digest`: of the source."""
    request, plan, model = job.request, prepared.plan, prepared.model
    contents, passed, reference = job.target.packager.contents(plan, made), quality.passed, quality.reference
    parts: Sequence[Part] = [
        *contents.parts,
        *([reference.part] if reference is not None and contents.repeatable else []),
        *(passed.report if passed else []),
    ]
    precision = plan.quant.scheme.name if plan.quant.scheme else plan.dtype
    draft = package.draft_manifest(
        plan,
        contents,
        name=request.name or package.default_name(model.source, plan.recipe, plan.target, plan.tp, precision),
        target=plan.target,
        model=package.model_of(model, plan.config, digest),
        device=device,
        toolchain={**contents.toolchain, **versions},
        parts=parts,
        stand_in=job.toolchain.stand_in or contents.stand_in,
        quantisation=passed.quantisation if passed else None,
    )
    draft, parts = with_statements(draft, parts)
    verified = request.until == stages_of(job.target)[-1]
    measured = None
    if quality.numerics is not None:
        update = {} if contents.repeatable else {"reference_file": None}
        draft = draft.model_copy(update={"numerics": quality.numerics.model_copy(update=update)})
    elif verified and reference is not None:
        run = runner_of(draft, request.resources.max_memory)
        logits = job.logits or (run.logits if run else None)
        measured = Measured(reference.who, logits) if logits else None
    manifest = install(
        job.runner, draft, parts, request.output, verified=verified, measured=measured, force=request.force
    )
    if manifest is None:
        return BuildResult(request.output, plan, load_manifest(request.output), job.runner.made, up_to_date=True)
    return BuildResult(request.output, plan, manifest, job.runner.made)


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
