"""The order of the stages, the same for every target; no stage knows that it is cached.

    resolve -> plan -> [calibrate -> scales] -> convert -> [gate] -> [judge] -> compile -> package -> verify -> in place

What decides the result of each, and so is its key:

    calibrate    the source's bytes, the config, the token ids; where the quantisation needs a text
    scales       the source's bytes, the quantisation, the calibration; not tp
    convert      the source's bytes, the plan, the scales
    gate         what decides convert, and the held-out text; of quantised models, before any toolchain sees them
    reference    the source's bytes, the config, the text, the versions of torch and transformers; not tp
    judge        what decides convert, and the reference; where the target has a judge
    compile      per spec of the target: the spec, the toolchain, the device
    verify       the manifest, which has the digest of every file, but for what it says of the artifact's quality
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler import targets
from compiler.artifact import assemble
from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.errors import ArtifactError, ToolchainMissing, UsageError
from compiler.build.cached import Converted, Job, compiled, converted
from compiler.build.delegate import delegate
from compiler.build.evidence import judged, quantised, referenced
from compiler.build.gated import gated, held_out
from compiler.build.origin import default_name, model_of
from compiler.build.place import finish
from compiler.build.requests import prepare
from compiler.build.scaled import samples_of, with_scales
from compiler.build.source import source_digest
from compiler.report import Silent
from compiler.build import package
from compiler.numerics import verify
from compiler.artifact.statements import with_statements
from compiler.storage.cache.stages import open_cache
from compiler.storage.files.folder import disk_errors, normal
from compiler.build.notes import plan_note
from compiler.targets.protocols import stages_of
from compiler.targets.runners import runner_of
from compiler.targets.values import Made, Sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device, Manifest, Numerics
    from compiler.artifact.parts import Part
    from compiler.build.evidence import Reference
    from compiler.build.gated import Gated
    from compiler.build.requests import BuildRequest, PlanRequest, Prepared
    from compiler.report import Report
    from compiler.build.plan import Plan
    from compiler.numerics.verify import Logits
    from compiler.targets.values import Toolchain


@dataclass(frozen=True)
class BuildResult:
    """`manifest` is None where `until` ended the build before there was an artifact. `made`: results that
    were not cached, by stage. `source`: what stands for the source (source.py), where the build ended with the
    plan.
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


def command_of(request: PlanRequest) -> list[str]:
    """The command line that compiles what is asked for, from the headers alone. Raises LmiCompileError."""
    target = targets.load(request.target)
    line = list(target.compiler.command(prepare(request).plan))
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
            f"`--until` is one of {', '.join(stages_of(target))} for target `{target.name}`; found `{request.until}`"
        )
    report = report or Silent()
    request = replace(request, output=normal(request.output))
    job = Job(
        request,
        report,
        open_cache(request.cache, request.shared_cache, warn=report.warn, rehash=request.rehash),
        target,
        toolchain or target.compiler.toolchain(),
        logits,
        {},
    )
    with disk_errors(request.output):
        return _build(job)


def _build(job: Job) -> BuildResult:
    request, report, target = job.request, job.report, job.target
    assemble.check_output(request.output, force=True)
    device = target.compiler.device(request.how)
    elsewhere, asked = target.packager.elsewhere, request.ask.options or target.options()
    if elsewhere is not None and elsewhere.delegates(asked):
        delegate(job, elsewhere)
    versions = _versions(job, device)
    report.begin("plan")
    prepared = prepare(request, "metadata" if request.until == "plan" else "all", report.progress)
    plan, folder = prepared.plan, prepared.source.folder
    texts = package.tokenizer_parts(folder, request.tokenizer)
    if not package.has_vocabulary(texts):
        report.warn(f"{folder} has no tokenizer: the artifact takes token ids; `--tokenizer DIR` adds one")
    target.packager.check_tokenizer(plan, [part.name for part in texts])
    report.end(plan_note(plan))
    unfinished = BuildResult(request.output, plan, None, job.made)
    if request.until == "plan":
        return replace(unfinished, source=source_digest(job.cache, report, prepared.source, prepared.checkpoint))

    job.cache.sweep()
    # Before any weight is read: a text that is no text ends the build in seconds.
    samples = samples_of(plan, package.tokenizer_json(texts))
    judged_by = held_out(plan, package.tokenizer_json(texts)) if plan.quant.asked else None
    source = source_digest(job.cache, report, prepared.source, prepared.checkpoint)
    _refuse_other(request, plan, source)
    scaled = with_scales(job.cache, report, prepared, source, samples, request.ask.max_memory)
    weights = Converted(folder, ())
    if target.layout is not None:
        weights = converted(job, plan, scaled.checkpoint, source, scaled.digest)
    if request.until == "convert":
        return unfinished
    verdict = None
    if judged_by is not None:
        verdict = gated(job, prepared, source, scaled, weights, judged_by, samples)
    reference, numerics = None, None
    judge = target.layout.judge if target.layout is not None else None
    if judge is not None:
        reference = referenced(job, prepared, source, texts)
        quantisation = verdict.quantisation if verdict else None
        numerics = judged(job, prepared, source, weights, judge, reference, quantisation)
    elif isinstance(versions, ToolchainMissing):
        raise ToolchainMissing(
            f"{versions.message}. What comes before compile is done and kept in {request.cache}", hint=versions.hint
        )
    made = Made(weights.parts, tokenizer=texts)
    if request.until == "judge" or isinstance(versions, ToolchainMissing):
        nothing_yet = device.model_copy(update={"capability": None})
        result = _packaged(job, prepared, source, made, verdict, reference, numerics, nothing_yet, {})
        if isinstance(versions, ToolchainMissing) and request.until != "judge":
            raise ToolchainMissing(
                f"{versions.message}. The verified checkpoint is in {request.output}, with what finishes the work",
                hint=versions.hint,
            )
        return result
    made = replace(made, compiled=compiled(job, plan, Sources(weights.folder, texts), source, device, versions))
    if request.until == "compile":
        return unfinished
    if reference is None and not job.toolchain.stand_in:
        reference = quantised(job, prepared, weights, texts) if verdict else referenced(job, prepared, source, texts)
    return _packaged(job, prepared, source, made, verdict, reference, numerics, device, versions)


def _packaged(
    job: Job,
    prepared: Prepared,
    source: str,
    made: Made,
    verdict: Gated | None,
    reference: Reference | None,
    numerics: Numerics | None,
    device: Device,
    versions: Mapping[str, str],
) -> BuildResult:
    """`verdict`: of the gate, where the model is quantised. `numerics`: of what is packaged, where known already."""
    request, plan = job.request, prepared.plan
    contents = job.target.packager.contents(plan, made)
    parts: Sequence[Part] = contents.parts
    if reference is not None and contents.repeatable:
        parts = [*parts, reference.part]
    if verdict is not None:
        parts = [*parts, *verdict.report]
    draft = package.draft_manifest(
        plan,
        contents,
        name=request.name or default_name(prepared.source, plan.recipe, plan.target, plan.tp, _precision(plan)),
        target=plan.target,
        model=model_of(prepared.source, plan.recipe, plan.config, source),
        device=device,
        toolchain={**contents.toolchain, **versions},
        parts=parts,
        stand_in=job.toolchain.stand_in or contents.stand_in,
        quantisation=verdict.quantisation if verdict else None,
    )
    draft, parts = with_statements(draft, parts)
    if numerics is not None:
        kept = numerics if contents.repeatable else numerics.model_copy(update={"reference_file": None})
        draft, logits = draft.model_copy(update={"numerics": kept}), None
    else:
        runner = runner_of(draft, request.ask.max_memory)
        logits = job.logits or (runner.logits if runner is not None else None)
    manifest = finish(job, draft, parts, reference.who if reference else None, logits)
    if manifest is None:
        return BuildResult(request.output, plan, load_manifest(request.output), job.made, up_to_date=True)
    return BuildResult(request.output, plan, manifest, job.made)


def _precision(plan: Plan) -> str:
    """The end of an artifact's name."""
    return plan.quant.scheme.name if plan.quant.scheme else plan.dtype


def _versions(job: Job, device: Device) -> dict[str, str] | ToolchainMissing:
    """Of the toolchain; where there is none, what the build will end with after the last stage that needs
    none.
    """
    stages, until = stages_of(job.target), job.request.until
    before = stages[: stages.index("compile")]
    try:
        return job.toolchain.versions(device.kind)
    except ToolchainMissing as error:
        if until not in before:
            job.report.warn(f"{error.message}; this build will end after {before[-1]}")
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
        assemble.check_output(request.output, force=False)
