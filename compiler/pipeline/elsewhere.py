"""Engines that another machine compiles: leave a command file for it, and package its result.

build            --> a checkpoint and `build-engines.sh`; or, for an image without checkpoints, its own command alone
another machine  --> engines beside them
package_engines  --> the artifact that `build` makes where the toolchain is
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from compiler.artifact import assemble
from compiler.artifact.check import check_files
from compiler.artifact.manifest import Manifest, load_manifest
from compiler.artifact.parts import Part
from compiler.artifact.quantization import FIGURES, REPORT
from compiler.artifact.statements import with_statements
from compiler.errors import RefusedError, ToolchainMissing, UsageError
from compiler.model.config import ModelConfig
from compiler.model.identity import identity
from compiler.model.limits import Limits, built_for
from compiler.model.parallel import head_layout
from compiler.numerics.verify import check_layout
from compiler.pipeline import package
from compiler.pipeline.install import install, is_at, packed_notes
from compiler.pipeline.parts import tokenizer_parts
from compiler.pipeline.resolve import locate
from compiler.pipeline.steps.digest import source_digest
from compiler.report import amount, progress_in
from compiler.storage.cache.stages import StageCache, cache_folder
from compiler.storage.files.digest import Descriptor, digest_bytes
from compiler.storage.files.folder import disk_errors, locked_folder, normal, place
from compiler.targets import load
from compiler.targets.protocols import stages_of

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.pipeline.request import BuildRequest
    from compiler.pipeline.runner import CachedRunner
    from compiler.report import Report
    from compiler.targets.options import TargetOptions
    from compiler.targets.values import Elsewhere


def leave_command(runner: CachedRunner, request: BuildRequest, elsewhere: Elsewhere) -> NoReturn:
    """Leave at the request's output the command of the image that alone compiles what is asked for.

    Always raises ToolchainMissing, once the command is there.
    """
    target, ask = load(request.target), request.ask
    if request.text_only:
        raise RefusedError(
            "`--text-only` needs a target that reads rank files; this image compiles the model from its own files",
            hint="choose an `--image` of LMI 0.27 or later",
        )
    runner.report.begin("plan")
    model = locate(request)
    source = model.source
    config, limits = built_for(
        model.config(ask), ask.max_positions, ask.max_batch, extended=ask.rope_scaling is not None
    )
    head_layout(config.heads, config.kv_heads, ask.tp)
    dtype = ask.dtype or config.dtype
    local = "./model"  # beside the script, or named by MODEL=...: a path of this machine means nothing elsewhere
    name = source.repo_id or source.uri or local
    options = ask.options or target.options()
    contents = elsewhere.delegated(config, ask.tp, dtype, limits, options, name)
    texts = tokenizer_parts(source.folder, request.tokenizer)
    runner.report.end(f"{config.architecture}, tp {ask.tp}, {dtype}; the image compiles it")
    digest = source_digest(runner.cache, runner.report, source, model.checkpoint)
    facts = identity([model.recipe_name, config, ask.tp, dtype, request.target, options])
    parts = [*contents.parts, *texts]
    draft = package.draft_manifest(
        Replanned(config, ask.tp, dtype, limits, options, digest_bytes(facts.encode())),
        contents,
        name=request.name or package.default_name(source, model.recipe_name, target.name, ask.tp, dtype),
        target=target.name,
        model=package.model_of(model, config, digest),
        device=target.compiler.device(request.how).model_copy(update={"capability": None}),
        toolchain={},
        parts=parts,
        stand_in=False,
    )
    draft, parts = with_statements(draft, parts)
    verified = request.until == stages_of(target)[-1]
    install(runner, draft, parts, request.output, verified=verified, measured=None, force=request.force)
    raise ToolchainMissing(
        f"only the image compiles for this version. Its command is in {request.output}",
        hint="run `partition.sh` there on a GPU host with docker, then `lmi-compile package` on the folder",
    )


@dataclass(frozen=True)
class Replanned:
    """The plan of an artifact, as far as targets ask for it."""

    config: ModelConfig
    tp: int
    dtype: str
    limits: Limits
    options: TargetOptions
    digest: str


def replanned(manifest: Manifest) -> Replanned:
    """From the manifest of what was made by that plan."""
    return Replanned(
        manifest.config,
        manifest.parallel.tp,
        manifest.dtype,
        Limits(**manifest.limits.model_dump()),
        load(manifest.target).packager.options_of(manifest),
        manifest.plan_digest,
    )


def package_engines(
    checkpoint: Path, engines: Path | None, output: Path | None, report: Report, *, force: bool = False
) -> tuple[Path, Manifest]:
    """Where the artifact is, and its manifest.

    `checkpoint`: the artifact that `build` left; `engines`: default where its command file leaves them, inside it;
    `output`: default beside it.

    Raises:
        UsageError: another kind of artifact, or something else is at `output`.
        ArtifactError: a file is missing or damaged, or the engines are of another checkpoint.
    """
    checkpoint = normal(checkpoint)
    engines = normal(engines) if engines else None
    output = normal(output) if output else checkpoint.with_name(f"{checkpoint.name}-engines")
    before = load_manifest(checkpoint)
    if not before.section.unfinished:
        raise UsageError(
            f"`{before.name}` is not a checkpoint that waits for its engines",
            hint="pass the folder that `lmi-compile build` left where the target's toolchain was missing",
        )
    cache = StageCache(cache_folder(), warn=report.warn)
    with disk_errors(output):
        report.begin("check")
        check_files(before, checkpoint, by="sha256", digest=cache.digest)
        report.end(f"{len(before.files)} files")
        manifest, parts = _manifest(before, checkpoint, engines)
        if not is_at(output, manifest, cache, report):
            assemble.check_output(output, force=force)
            part = output.with_name(f".{output.name}.part")
            with locked_folder(part):
                report.begin("package")
                assemble.assemble(part, parts, cache.memo, progress_in(report, "bytes"))
                assemble.write_manifest(part, manifest)
                check_layout(manifest, part)
                for note in packed_notes(manifest, part):
                    report.warn(note)
                place(part, output)
                report.end(f"{len(parts)} files, {amount(sum(p.descriptor.size for p in parts), 'bytes')}")
    return output, manifest


def _manifest(before: Manifest, checkpoint: Path, engines: Path | None) -> tuple[Manifest, list[Part]]:
    plan = replanned(before)
    files = [Part(Descriptor(**file.model_dump(exclude={"codec"})), checkpoint / file.path) for file in before.files]
    elsewhere = load(before.target).packager.elsewhere
    assert elsewhere is not None  # a target whose manifests are unfinished
    contents = elsewhere.finished(before, plan, files, checkpoint, engines)
    # Engines have lost what their checkpoint has lost: its verdict goes along.
    parts = [*contents.parts, *(part for part in files if part.path in (REPORT, FIGURES))]
    numerics = before.numerics.model_copy(update={"reference_file": None}) if before.numerics else None
    draft = package.draft_manifest(
        plan,
        contents,
        name=before.name,
        target=before.target,
        model=before.model,
        device=before.device.model_copy(update={"capability": contents.capability}),
        toolchain=contents.toolchain,
        parts=parts,
        stand_in=contents.stand_in,
        quantisation=before.quantisation,
    )
    return with_statements(draft.model_copy(update={"numerics": numerics}), parts)
