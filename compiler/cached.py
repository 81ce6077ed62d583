"""Each stage behind the cache: found there by what decides its result, or run and put there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import Numerics
from compiler.report import amount
from compiler.stages import compile as compiling
from compiler.stages import reference, verify
from compiler.stages.convert import convert
from compiler.stages.package import Part
from compiler.store.cache import StageCache, key_of
from compiler.store.digest import SAFETENSORS, Descriptor, digest_json
from compiler.targets import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device, Manifest
    from compiler.report import Report
    from compiler.requests import BuildRequest, Prepared
    from compiler.stages.plan import Plan
    from compiler.store.cache import Entry

_CONVERT_VERSION = 1
_REFERENCE_VERSION = 1


@dataclass(frozen=True)
class ConvertInputs:
    version: int
    source: str
    plan: str


@dataclass(frozen=True)
class ReferenceInputs:
    version: int
    source: str
    config: dict[str, Any]
    text: str
    positions: int
    versions: dict[str, str]


@dataclass(frozen=True)
class VerifyInputs:
    version: int
    manifest: str
    thresholds: dict[str, float]


@dataclass(frozen=True)
class Job:
    """What the stages of one build share."""

    request: BuildRequest
    report: Report
    cache: StageCache
    toolchain: compiling.Toolchain
    logits: verify.Logits
    made: dict[str, int]


def source_digest(job: Job, prepared: Prepared) -> str:
    """What stands for the source in keys: the commit of a hub's model, else the digests of config.json and
    weights.
    """
    source, checkpoint = prepared.source, prepared.checkpoint
    if source.repo_id is not None and source.commit is not None:
        return digest_json({"repo_id": source.repo_id, "commit": source.commit})
    files = [checkpoint.folder / "config.json", *checkpoint.files]
    sizes = [path.stat().st_size for path in files]
    job.report.begin("digest")
    digests: dict[str, str] = {}
    with ThreadPoolExecutor(2, "digest") as pool:
        done = 0
        for path, size, digest in zip(files, sizes, pool.map(job.cache.digest, files), strict=True):
            done += size
            digests[path.name] = digest
            job.report.progress(done, sum(sizes), "bytes")
    job.report.end(f"{len(files)} source files, {amount(sum(sizes), 'bytes')}")
    return digest_json(digests)


def converted(job: Job, prepared: Prepared, source: str) -> list[Part]:
    job.report.begin("convert")
    with job.cache.claim("convert", ConvertInputs(_CONVERT_VERSION, source, prepared.plan.digest)) as claim:
        entry = claim.entry
        if entry is None:
            job.made["convert"] = 1
            files = run_convert(prepared, claim.folder, job.request.ask.max_memory, job.report)
            entry = claim.commit(files=files)
    job.report.end(written(prepared.plan) if entry.fresh else "cached")
    return [Part(replace(file, media_type=SAFETENSORS), entry.folder / file.path) for file in entry.files]


def run_convert(prepared: Prepared, folder: Path, max_memory: int, report: Report) -> list[Descriptor]:
    return convert(
        prepared.plan.ranks,
        prepared.checkpoint,
        folder,
        max_memory=max_memory,
        progress=lambda count, total: report.progress(count, total, "bytes"),
    )


def compiled(job: Job, plan: Plan, device: Device, versions: dict[str, str]) -> dict[str, Part]:
    """The packages by name; those that are not in the cache are compiled in one call."""
    request, report = job.request, job.report
    report.begin("compile")
    keyed = {}
    for spec in load(plan.target).specs(plan.config, plan.tp, plan.dtype, plan.limits):
        inputs = compiling.inputs_of(spec, versions, device, request.march, stand_in=job.toolchain.stand_in)
        keyed[key_of("compile", inputs)] = (spec, inputs)
    entries: dict[str, Entry] = {}
    with ExitStack() as stack:
        missing = {}
        for _, (spec, inputs) in sorted(keyed.items()):  # by key: see StageCache.claim
            claim = stack.enter_context(job.cache.claim("compile", inputs))
            if claim.entry is None:
                missing[spec.name] = (spec, claim)
            else:
                entries[spec.name] = claim.entry
        if missing:
            job.made["compile"] = len(missing)
            out = stack.enter_context(job.cache.scratch("compile"))

            def keep(done: int, total: int) -> None:
                """Each package is kept as it is finished: a build that is killed has lost no other."""
                for name, (_, claim) in missing.items():
                    file = out / f"{name}.pt2"
                    if claim.entry is None and file.exists():
                        file.rename(claim.folder / file.name)
                        entries[name] = claim.commit()
                report.progress(done, total, "packages")

            specs = [spec for spec, _ in missing.values()]
            job.toolchain.compile_segments(
                specs, out, device=request.device, march=request.march, jobs=request.jobs, progress=keep
            )
            keep(len(missing), len(missing))
    report.end(f"{len(keyed)} packages, {len(keyed) - len(missing)} of them cached")
    return {name: _package_part(entry) for name, entry in sorted(entries.items())}


def _package_part(entry: Entry) -> Part:
    (file,) = entry.files
    return Part(replace(file, path=f"packages/{file.path}"), entry.folder / file.path)


def referenced(job: Job, prepared: Prepared, source: str, texts: Sequence[Part]) -> tuple[str, Part]:
    """Who computed the reference logits, and the file that has them."""
    plan, path = prepared.plan, "tokenizer/tokenizer.json"
    tokenizer = next((part for part in texts if part.descriptor.path == path), None)
    inputs = ReferenceInputs(
        _REFERENCE_VERSION,
        source,
        plan.config.to_json(),
        tokenizer.descriptor.digest if tokenizer else "",
        min(reference.TOKENS, plan.limits.max_positions - 1),
        {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    )
    job.report.begin("reference")
    with job.cache.claim("reference", inputs) as claim:
        entry = claim.entry
        if entry is None:
            job.made["reference"] = 1
            ids = reference.token_ids(
                tokenizer.file if tokenizer else None, plan.config.vocab, plan.limits.max_positions
            )
            who, logits = reference.reference_logits(plan, prepared.checkpoint, ids)
            who = f"{who} {inputs.versions[who]}" if who in inputs.versions else who
            reference.write_reference(claim.folder / reference.REFERENCE, ids, logits)
            entry = claim.commit({"reference": who})
    who = str(entry.facts["reference"])
    (file,) = entry.files
    job.report.end(f"logits of {inputs.positions} tokens by {who}" if entry.fresh else "cached")
    return who, Part(replace(file, media_type=SAFETENSORS), entry.folder / file.path)


def measured(job: Job, inputs: VerifyInputs, draft: Manifest, folder: Path, who: str) -> Entry:
    with job.cache.claim("verify", inputs) as claim:
        if claim.entry is not None:
            return claim.entry
        job.made["verify"] = 1
        numerics = verify.measure(draft, folder, who, job.logits)
        return claim.commit({"numerics": numerics.model_dump(mode="json")})


def with_numerics(draft: Manifest, entry: Entry) -> Manifest:
    return draft.model_copy(update={"numerics": Numerics(**entry.facts["numerics"])})


def written(plan: Plan) -> str:
    return f"{len(plan.ranks)} rank file(s), {amount(sum(rank.nbytes for rank in plan.ranks), 'bytes')}"
