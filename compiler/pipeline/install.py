"""Put an artifact in place: assembled, verified and renamed to its output; whole, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.artifact import assemble
from compiler.artifact.check import check_files
from compiler.artifact.manifest import MANIFEST, Manifest, load_manifest
from compiler.errors import ArtifactError
from compiler.numerics.verify import check_layout
from compiler.pipeline.notes import numerics_text
from compiler.pipeline.steps.verify import measure, measured_before
from compiler.report import amount, progress_in
from compiler.storage.files.folder import locked_folder, place
from compiler.targets import load
from compiler.tokenizer.fresh import fresh_notes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Numerics
    from compiler.artifact.parts import Part
    from compiler.numerics.verify import Logits
    from compiler.pipeline.runner import CachedRunner
    from compiler.report import Report
    from compiler.storage.cache.stages import StageCache


@dataclass(frozen=True)
class Measured:
    """How the logits of an artifact are verified: computed by `logits`, against the reference that `who` computed."""

    who: str
    logits: Logits


def install(
    runner: CachedRunner,
    draft: Manifest,
    parts: Sequence[Part],
    output: Path,
    *,
    verified: bool,
    measured: Measured | None,
    force: bool,
) -> Manifest | None:
    """Put the artifact of `parts` at `output`; its manifest, or None where it was there already.

    `verified`: check digests and layout. `measured`: and then the logits. `force`: replace another artifact.
    Raises UsageError, ArtifactError, NumericsError, DiskFullError.
    """
    cache, report = runner.cache, runner.report
    known = measured_before(cache, draft) if measured else None
    final = _with_numerics(draft, known)
    if (known or not measured) and is_at(output, final, cache, report):
        report.begin("package")
        report.end(f"{output} is up to date")
        return None
    assemble.check_output(output, force=force or may_replace(output, final))
    part = output.with_name(f".{output.name}.part")
    with locked_folder(part, lambda: report.warn(f"another build is putting {output} in place; waiting")):
        report.begin("package")
        assemble.assemble(part, parts, cache.memo, progress_in(report, "bytes"))
        assemble.write_manifest(part, draft)
        report.end(f"{len(draft.files)} files, {amount(sum(f.size for f in draft.files), 'bytes')}")
        if verified:
            report.begin("verify")
            check_files(draft, part, by="sha256", digest=cache.digest)
            check_layout(draft, part)
            for note in packed_notes(draft, part):
                report.warn(note)
            if measured:
                final = _with_numerics(draft, measure(runner, draft, part, measured.who, measured.logits))
            assemble.write_manifest(part, final)
            report.end(numerics_text(final))
        # Someone else may have built the same meanwhile: the check is repeated under the lock.
        if not is_at(output, final, cache, report):
            assemble.check_output(output, force=force or may_replace(output, final))
            place(part, output)
        for file in final.files:
            cache.memo.remember(output / file.path, file.digest)
    runner.made["package"] = 1
    return final


def packed_notes(manifest: Manifest, folder: Path) -> list[str]:
    """Notes on the tokenizer of the artifact in `folder`, as its container loads it; none where this project's runtime
    does, or where a stand-in of the tests made the artifact.
    """
    packager = load(manifest.target).packager
    configs = [file.path for file in manifest.files if file.path.rpartition("/")[2] == "tokenizer_config.json"]
    container = packager.transformers(packager.options_of(manifest)) if configs else None
    if container is None or manifest.stand_in or manifest.section.unfinished:
        return []
    notes = fresh_notes(folder / configs[0].rpartition("/")[0])
    return [f"{note}; the image has transformers {container}: compare there" for note in notes]


def may_replace(output: Path, manifest: Manifest) -> bool:
    """Whether the folder at `output` may be put right without asking: it is this artifact, or the same with another
    verdict (measured, limited or accepted in another way), or one that this artifact is the continuation of. The last
    two not where it holds more than its manifest lists: engines that its command file has made, or a signature.
    """
    try:
        found = load_manifest(output)
    except ArtifactError:
        return False
    listed = {MANIFEST, *(file.path.partition("/")[0] for file in found.files)}
    alone = {p.name for p in output.iterdir()} <= listed
    before = bool(found.section.unfinished)
    same = (found.plan_digest, found.model.source_digest) == (manifest.plan_digest, manifest.model.source_digest)
    return found == manifest or (alone and (found.substance == manifest.substance or (before and same)))


def is_at(output: Path, manifest: Manifest, cache: StageCache, report: Report) -> bool:
    """Whether the folder is this artifact, whole."""
    path = output / MANIFEST
    if not path.is_file() or path.read_bytes() != manifest.to_bytes():
        return False
    try:
        check_files(manifest, output, by="sha256", digest=cache.digest)
    except ArtifactError as error:
        report.warn(f"{error.message}\nit is put in place again")
        return False
    return True


def _with_numerics(draft: Manifest, numerics: Numerics | None) -> Manifest:
    return draft.model_copy(update={"numerics": numerics}) if numerics else draft
