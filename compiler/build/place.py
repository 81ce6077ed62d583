"""The end of a build: package, verify, put in place. Whole, or not at all; nothing where it is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact import assemble
from compiler.artifact.check import check_files
from compiler.artifact.manifest import MANIFEST, Manifest, load_manifest
from compiler.errors import ArtifactError
from compiler.build.evidence import measured, verify_inputs, with_numerics
from compiler.report import amount
from compiler.build import package
from compiler.numerics import verify
from compiler.targets.protocols import stages_of
from compiler.storage.files.folder import locked_folder, place
from compiler.build.notes import numerics_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.parts import Part
    from compiler.build.cached import Job
    from compiler.report import Report
    from compiler.numerics.verify import Logits
    from compiler.storage.cache.stages import StageCache


def finish(job: Job, draft: Manifest, parts: Sequence[Part], who: str | None, logits: Logits | None) -> Manifest | None:
    """Put the artifact of `parts` at the request's output; its manifest, or None where it was there already.

    Its logits are measured where `logits` computes them and `who` has computed those of the reference.
    """
    request, report, output = job.request, job.report, job.request.output
    runs = logits if who is not None and request.until == stages_of(job.target)[-1] else None
    known = job.cache.find("verify", verify_inputs(draft)) if runs else None
    final = with_numerics(draft, known) if known else draft
    if (known or not runs) and is_at(output, final, job.cache, report):
        report.begin("package")
        report.end(f"{output} is up to date")
        return None
    assemble.check_output(output, force=request.force or may_replace(output, final))
    part = output.with_name(f".{output.name}.part")
    with locked_folder(part, lambda: report.warn(f"another build is putting {output} in place; waiting")):
        report.begin("package")
        assemble.assemble(part, parts, job.cache.memo, lambda done, total: report.progress(done, total, "bytes"))
        assemble.write_manifest(part, draft)
        report.end(f"{len(draft.files)} files, {amount(sum(f.size for f in draft.files), 'bytes')}")
        if request.until == stages_of(job.target)[-1]:
            report.begin("verify")
            check_files(draft, part, by="sha256", digest=job.cache.digest)
            verify.check_layout(draft, part)
            if runs is not None and who is not None:
                final = with_numerics(draft, measured(job, draft, part, who, runs))
            assemble.write_manifest(part, final)
            report.end(numerics_text(final))
        # Someone else may have built the same meanwhile: the check is repeated under the lock.
        if not is_at(output, final, job.cache, report):
            assemble.check_output(output, force=request.force or may_replace(output, final))
            place(part, output)
        for file in final.files:
            job.cache.memo.remember(output / file.path, file.digest)
    job.made["package"] = 1
    return final


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
