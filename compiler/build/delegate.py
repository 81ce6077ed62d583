"""Models that only a container image can compile: its own command, ready to run, and what has to go along with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from compiler.errors import ToolchainMissing
from compiler.model.limits import limits_for
from compiler.model.parallel import head_layout
from compiler.build.finish import Replanned
from compiler.build.origin import default_name, model_of
from compiler.build.place import finish
from compiler.build.requests import find
from compiler.build.source import source_digest
from compiler.build import package
from compiler.artifact.statements import with_statements
from compiler.storage.files.digest import digest_json

if TYPE_CHECKING:
    from compiler.build.cached import Job
    from compiler.targets.values import Elsewhere


def delegate(job: Job, elsewhere: Elsewhere) -> NoReturn:
    """Leave at the request's output what is to be run elsewhere. Always raises ToolchainMissing, once it is there."""
    request, target = job.request, job.target
    job.report.begin("plan")
    found = find(request)
    config = found.config
    limits = limits_for(config, found.ask.max_positions, found.ask.max_batch)
    head_layout(config.heads, config.kv_heads, found.ask.tp)
    dtype = found.ask.dtype or config.dtype
    local = "./model"  # beside the script, or named by MODEL=...: a path of this machine means nothing elsewhere
    model = found.source.repo_id or found.source.uri or local
    options = found.ask.options or target.options()
    contents = elsewhere.delegated(config, found.ask.tp, dtype, limits, options, model)
    texts = package.tokenizer_parts(found.source.folder, request.tokenizer)
    job.report.end(f"{config.architecture}, tp {found.ask.tp}, {dtype}; the image compiles it")
    source = source_digest(job.cache, job.report, found.source, found.checkpoint)
    facts = [found.name, config.to_json(), found.ask.tp, dtype, request.target, asdict(options)]
    parts = [*contents.parts, *texts]
    draft = package.draft_manifest(
        Replanned(config, found.ask.tp, dtype, limits, options, digest_json(facts)),
        contents,
        name=request.name or default_name(found.source, found.name, target.name, found.ask.tp, dtype),
        target=target.name,
        model=model_of(found.source, found.name, config, source),
        device=target.compiler.device(request.how).model_copy(update={"capability": None}),
        toolchain={},
        parts=parts,
        stand_in=False,
    )
    draft, parts = with_statements(draft, parts)
    finish(job, draft, parts, None, None)
    raise ToolchainMissing(
        f"only the image compiles for this version. Its command is in {request.output}",
        hint="run `partition.sh` there on a GPU host with docker, then `lmi-compile package` on the folder",
    )
