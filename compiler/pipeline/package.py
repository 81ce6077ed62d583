"""Manifest of an artifact: its name, its source; the artifact in its place."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, cast

from compiler import __version__
from compiler.artifact.manifest import ArtifactFile, ArtifactLimits, Manifest, Parallel, SourceModel, load_manifest
from compiler.artifact.parts import Part
from compiler.artifact.statements import with_statements
from compiler.pipeline.install import Measured, install
from compiler.pipeline.job import BuildResult
from compiler.storage.files.digest import canonical_json
from compiler.targets.protocols import stages_of
from compiler.targets.runners import runner_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.artifact.manifest import Device
    from compiler.artifact.quantization import Quantisation
    from compiler.model.config import ModelConfig
    from compiler.pipeline.job import Job, Prepared, Quality
    from compiler.pipeline.resolve import LocatedModel
    from compiler.storage.checkpoints.source import ResolvedSource
    from compiler.targets.options import TargetOptions
    from compiler.targets.values import Contents, Made, Planned


def model_of(model: LocatedModel, config: ModelConfig, digest: str) -> SourceModel:
    """The manifest's section on the model. `digest`: of the source, see steps/digest.py."""
    found = model.source
    return SourceModel(
        source=source_kind(found),
        repo_id=found.repo_id,
        revision=found.commit,
        recipe=model.recipe_name,
        architecture=config.architecture,
        config=json.loads(canonical_json(config.to_json())),
        source_digest=digest,
        text_only=model.checkpoint.whole is not None,
        notes=model.checkpoint.notes,
    )


def source_kind(found: ResolvedSource) -> Literal["hub", "local", "s3"]:
    return "hub" if found.repo_id else "s3" if found.uri else "local"


def default_name(found: ResolvedSource, recipe: str, target: str, tp: int, precision: str) -> str:
    """`tiny-llama-inductor-tp2-bfloat16`: the model's name at a hub, or the recipe's. `precision`: scheme, dtype."""
    short = found.repo_id.partition("/")[2] if found.repo_id else recipe
    return f"{short}-{target}-tp{tp}-{precision}"


def draft_manifest(
    plan: Planned[TargetOptions],
    contents: Contents,
    *,
    name: str,
    target: str,
    model: SourceModel,
    device: Device,
    toolchain: Mapping[str, str],
    parts: Sequence[Part],
    stand_in: bool,
    quantisation: Quantisation | None = None,
) -> Manifest:
    """The manifest of an artifact of these parts, before its numerics are known."""
    return Manifest(
        writer=__version__,
        name=name,
        model=model,
        target=target,
        toolchain=dict(toolchain),
        device=device,
        parallel=Parallel(tp=plan.tp, **plan.options.split),
        dtype=cast("Literal['bfloat16', 'float16', 'float32']", plan.dtype),  # make_plan refused others
        limits=ArtifactLimits(**asdict(plan.limits)),
        files=tuple(ArtifactFile(**asdict(part.descriptor)) for part in sorted(parts, key=lambda part: part.path)),
        plan_digest=plan.digest,
        stand_in=stand_in,
        quantisation=quantisation,
        section=contents.section,
    )


def package(
    job: Job,
    prepared: Prepared,
    digest: str,
    made: Made,
    quality: Quality,
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
    draft = draft_manifest(
        plan,
        contents,
        name=request.name or default_name(model.source, plan.recipe, plan.target, plan.tp, precision),
        target=plan.target,
        model=model_of(model, plan.config, digest),
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
