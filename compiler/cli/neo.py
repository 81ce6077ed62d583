"""Command `neo`: the step inside a SageMaker optimization job."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli.groups import grouped
from compiler.cli.options import (
    AskOptions,
    GateOptions,
    Json,
    LimitOptions,
    ModelOptions,
    QuantOptions,
    RequestOptions,
    quant_of,
    request_of,
)
from compiler.cli.output import kept_stages, reporting, show
from compiler.cli.properties import completed
from compiler.cli.target_options import OwnOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from compiler.artifact.manifest import Manifest
    from compiler.lmi.neo import NeoJob
    from compiler.quantization.request import Quant
    from compiler.report import Report


@grouped
def neo(
    own: OwnOptions,
    target: Annotated[
        str | None, typer.Option("--target", help="Toolchain [default: by `--image`, else SERVING_FEATURES]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the step of a SageMaker optimization job."""
    from compiler.lmi.neo import neo_job, target_of_features
    from compiler.lmi.properties import SERVING_PROPERTIES

    with _error_file(os.environ):
        job = neo_job(os.environ)
        chosen = target or (None if getattr(own, "image", None) else target_of_features(os.environ))
        model, ask = ModelOptions(model=str(job.model)), AskOptions(target=chosen)
        quant = QuantOptions(from_properties=job.model / SERVING_PROPERTIES)
        variables = {name: value for name, value in os.environ.items() if name.startswith("OPTION_")}
        asked, found = completed(RequestOptions(model, ask, own, LimitOptions()), quant, variables)
        with reporting(as_json=as_json, kept=kept_stages()) as report:
            manifest = _run(job, asked, quant_of(quant, GateOptions(), found), report)
    facts = {"target": manifest.target, "output": str(job.output), "digest": manifest.digest}
    show(facts, f"{job.output}\n{manifest.name}  {manifest.digest}", as_json=as_json)


def _run(job: NeoJob, asked: RequestOptions, quant: Quant, report: Report) -> Manifest:
    """Build the artifact of a job and put it into the output folder, which may be a mount point."""
    from compiler.artifact.assemble import assemble, write_manifest
    from compiler.artifact.manifest import load_manifest
    from compiler.artifact.parts import Part
    from compiler.pipeline.build import build
    from compiler.pipeline.request import BuildRequest, Resources
    from compiler.report import progress_in
    from compiler.storage.cache.stages import open_cache

    plain = request_of(asked, quant, Resources())
    if job.cache is not None:
        plain = replace(plain, cache=job.cache / "lmi-compile")
    plain.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="neo-", dir=plain.cache) as scratch:
        place = Path(scratch) / "artifact"
        build(BuildRequest(**vars(plain), output=place), report)
        manifest = load_manifest(place)
        parts = [Part(file, place / file.path) for file in manifest.descriptors]
        job.output.mkdir(parents=True, exist_ok=True)
        report.begin("deliver")
        memo = open_cache(plain.cache, None, warn=report.warn).memo
        assemble(job.output, parts, memo, progress_in(report, "bytes"))
        write_manifest(job.output, manifest)
        report.end(str(job.output))
    return manifest


@contextmanager
def _error_file(environment: Mapping[str, str]) -> Iterator[None]:
    """Write the error that ends the command into the job's error file, if the environment names one, and raise it."""
    from compiler.lmi.neo import ERRORS, error_json

    try:
        yield
    except Exception as error:
        path = environment.get(ERRORS)
        if path:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_bytes(error_json(error))
            except OSError as failure:
                typer.echo(f"warning: {path} cannot be written: {failure.strerror}", err=True)
        raise
