"""Build an artifact: the order of the steps, the same for every target. No step knows that it is cached.

fetch -> plan -> [calibrate -> scales] -> convert -> [gate] -> [judge] -> compile -> package -> verify -> in place
                  quantized models                quantized  targets with a judge
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compiler import targets
from compiler.artifact import assemble
from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.artifact.statements import with_statements
from compiler.build import package
from compiler.build.elsewhere import leave_command
from compiler.build.install import Measured, install
from compiler.build.notes import plan_note
from compiler.build.resolve import locate, plan_model, plan_of
from compiler.build.runner import Runner
from compiler.build.steps.calibrate import calibration_samples
from compiler.build.steps.compile import compile_specs
from compiler.build.steps.convert import convert
from compiler.build.steps.digest import Source, source_digest
from compiler.build.steps.fetch import fetch
from compiler.build.steps.gate import held_out_samples, measure_loss, pass_gate, side_of
from compiler.build.steps.judge import judge
from compiler.build.steps.reference import quantized_reference, source_reference
from compiler.build.steps.scales import with_scales
from compiler.errors import ArtifactError, ToolchainMissing, UsageError
from compiler.numerics.verify import logits_of
from compiler.report import Silent
from compiler.storage.cache.stages import open_cache
from compiler.storage.files.folder import disk_errors, normal
from compiler.targets import Made

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device, Manifest, Numerics
    from compiler.artifact.parts import Part
    from compiler.build.plan import Plan
    from compiler.build.request import BuildRequest, PlanRequest
    from compiler.build.resolve import LocatedModel
    from compiler.build.steps.gate import Passed
    from compiler.build.steps.reference import Reference
    from compiler.build.steps.scales import Scaled
    from compiler.calibration.samples import Samples
    from compiler.numerics.gate.sides import Side
    from compiler.numerics.verify import Logits
    from compiler.report import Report
    from compiler.storage.cache.stages import Entry
    from compiler.targets import Target, Toolchain


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
    runner: Runner
    target: Target
    toolchain: Toolchain
    logits: Logits | None


@dataclass(frozen=True)
class _Reach:
    """The last stage that this build runs here. `versions`: of the toolchain; `missing`: why no later stage runs."""

    last: str
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: ToolchainMissing | None = None

    def check(self, left: str) -> None:
        """Raises ToolchainMissing where the build has to end here. `left`: where its results are."""
        if self.missing is not None:
            raise ToolchainMissing(f"{self.missing.message}. {left}", hint=self.missing.hint)


@dataclass(frozen=True)
class _Prepared:
    """The model with its weights, its plan, and the parts of its tokenizer."""

    model: LocatedModel
    plan: Plan
    texts: Sequence[Part]


@dataclass(frozen=True)
class _Quality:
    """What the steps have found of the artifact, as far as they ran."""

    passed: Passed | None = None
    reference: Reference | None = None
    numerics: Numerics | None = None


def command_of(request: PlanRequest) -> list[str]:
    """The command line that compiles what is asked for, from the headers alone. Raises LmiCompileError."""
    target = targets.load(request.target)
    line = list(target.command(plan_of(request)))
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
    if request.until not in target.stages:
        raise UsageError(
            f"`--until` is one of {', '.join(target.stages)} for target `{target.name}`; found `{request.until}`"
        )
    report = report or Silent()
    cache = open_cache(request.cache, request.resources.shared_cache, warn=report.warn, rehash=request.rehash)
    request = replace(request, output=normal(request.output))
    toolchain = toolchain or targets.toolchain_of(request.target)
    with disk_errors(request.output):
        return _build(_Job(request, Runner(cache, report), target, toolchain, logits))


def _build(job: _Job) -> BuildResult:
    request, runner, target = job.request, job.runner, job.target
    assemble.check_output(request.output, force=True)
    device = target.device(request.how)
    if target.elsewhere is not None and target.elsewhere.delegates(request.ask.options):
        leave_command(runner, request, target.elsewhere)
    reach = _reach(job, device.kind)
    prepared = _prepare(job)
    model, plan, texts = prepared.model, prepared.plan, prepared.texts
    unfinished = BuildResult(request.output, plan, None, runner.made)
    if request.until == "plan":
        return replace(unfinished, source=source_digest(runner.cache, runner.report, model.source, model.checkpoint))
    runner.cache.sweep()
    # Before any weight is read: a text that is no text ends the build in seconds.
    tokenizer = package.tokenizer_json(texts)
    samples = calibration_samples(plan, tokenizer)
    held_out = held_out_samples(plan, tokenizer) if plan.quant.asked else None
    digest = source_digest(runner.cache, runner.report, model.source, model.checkpoint)
    _refuse_other(request, plan, digest)
    source = Source(plan.config, plan.account.tensors, model.checkpoint, digest)
    scaled = with_scales(runner, source, plan, samples, request.resources.max_memory)
    files = convert(runner, plan, digest, scaled, request.resources.max_memory)
    if request.until == "convert":
        return unfinished
    quality = _Quality()
    if held_out is not None:
        quality = _Quality(_gate(job, plan, source, scaled, files, held_out, samples))
    if reach.last == "convert":
        reach.check(f"What comes before compile is done and kept in {request.cache}")
    if target.judge_of is not None:
        quality = _judge(job, plan, source, files, texts, quality)
    made = Made(package.parts_of(files), tokenizer=texts)
    if reach.last == "judge":
        result = _package(job, prepared, digest, made, quality, device.model_copy(update={"capability": None}), {})
        reach.check(f"The verified checkpoint is in {request.output}, with what finishes the work")
        return result
    specs = target.specs(plan, digest)
    compiled = compile_specs(runner, specs, files.folder, job.toolchain, reach.versions, device, request.how)
    if request.until == "compile":
        return unfinished
    if quality.reference is None and not job.toolchain.stand_in:
        quality = replace(quality, reference=_reference(job, plan, source, files, texts))
    return _package(job, prepared, digest, replace(made, compiled=compiled), quality, device, reach.versions)


def _reach(job: _Job, device: str) -> _Reach:
    stages, until = job.target.stages, job.request.until
    before = stages[: stages.index("compile")]
    try:
        return _Reach(until, job.toolchain.versions(device))
    except ToolchainMissing as error:
        if until in before:
            return _Reach(until)
        job.runner.report.warn(f"{error.message}; this build will end after {before[-1]}")
        return _Reach(before[-1], missing=error)


def _prepare(job: _Job) -> _Prepared:
    """The plan; with the weights here, where they will be read."""
    request, report = job.request, job.runner.report
    report.begin("plan")
    model = locate(request) if request.until == "plan" else fetch(request, report.progress)
    made = plan_model(model, request.target, request.ask, request.resources.max_memory)
    texts = package.tokenizer_parts(model.source.folder, request.tokenizer)
    if not package.has_vocabulary(texts):
        report.warn(f"{model.source.folder} has no tokenizer: the artifact takes token ids; `--tokenizer DIR` adds one")
    job.target.check_tokenizer(made, [part.name for part in texts])
    report.end(plan_note(made))
    return _Prepared(model, made, texts)


def _gate(
    job: _Job,
    plan: Plan,
    source: Source,
    scaled: Scaled,
    files: Entry,
    held_out: Samples,
    calibrated_on: Samples | None,
) -> Passed:
    """Raises NumericsError where quantization costs more than it may."""

    def side() -> Side:
        return side_of(job.target, plan, files.folder, job.request.resources.max_memory)

    verdict = measure_loss(job.runner, plan, source, scaled.digest, side, held_out)
    return pass_gate(job.runner.report, plan, verdict, scaled, calibrated_on, job.request.output)


def _judge(job: _Job, plan: Plan, source: Source, files: Entry, texts: Sequence[Part], quality: _Quality) -> _Quality:
    """`quality` with the figures of the rank files. Raises NumericsError, ArtifactError."""
    judge_of, passed = job.target.judge_of, quality.passed
    assert judge_of is not None
    reference = source_reference(job.runner, plan, source, texts)
    numerics = judge(
        job.runner,
        plan,
        source.digest,
        files,
        lambda: judge_of(files.folder, plan.config, job.request.resources.max_memory),
        reference,
        passed.quantisation.gate.bounds if passed else None,
    )
    return _Quality(passed, reference, numerics)


def _reference(job: _Job, plan: Plan, source: Source, files: Entry, texts: Sequence[Part]) -> Reference:
    """Logits for what was compiled: of its own rank files where these are quantized, else of the source."""
    if not plan.quant.asked:
        return source_reference(job.runner, plan, source, texts)
    assert job.target.kernels is not None
    return quantized_reference(job.runner, plan, files, job.target.kernels(plan.options), texts)


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
    contents, passed, reference = job.target.contents(plan, made), quality.passed, quality.reference
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
        model=package.model_of(model.source, plan.recipe, plan.config, digest),
        device=device,
        toolchain={**contents.toolchain, **versions},
        parts=parts,
        stand_in=job.toolchain.stand_in or contents.stand_in,
        quantisation=passed.quantisation if passed else None,
    )
    draft, parts = with_statements(draft, parts)
    verified = request.until == job.target.stages[-1]
    measured = None
    if quality.numerics is not None:
        update = {} if contents.repeatable else {"reference_file": None}
        draft = draft.model_copy(update={"numerics": quality.numerics.model_copy(update=update)})
    elif verified and reference is not None:
        logits = job.logits or logits_of(draft, request.resources.max_memory)
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
