"""What `build-engines.sh` began: from a verified checkpoint, and engines that were built from it elsewhere, the same
artifact that `build` makes where the toolchain is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.artifact import assemble
from compiler.artifact.check import check_files
from compiler.artifact.manifest import Manifest, load_manifest
from compiler.artifact.parts import Part
from compiler.artifact.quantization import FIGURES, REPORT
from compiler.errors import UsageError
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.build.place import is_at
from compiler.report import amount
from compiler.build import package
from compiler.numerics import verify
from compiler.artifact.statements import with_statements
from compiler.storage.cache.stages import StageCache, cache_folder
from compiler.storage.files.digest import Descriptor
from compiler.storage.files.folder import disk_errors, locked_folder, normal, place
from compiler.targets import load

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.report import Report
    from compiler.targets.options import TargetOptions


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
        ModelConfig.from_json(manifest.model.config),
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
                assemble.assemble(part, parts, cache.memo, lambda done, total: report.progress(done, total, "bytes"))
                assemble.write_manifest(part, manifest)
                verify.check_layout(manifest, part)
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
