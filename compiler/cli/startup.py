"""Start-up caches of servers, and the way to them: explain-miss, migrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compiler.cli.options import ArtifactArgument, Json
from compiler.cli.output import show, warn


def explain_miss(
    artifact: ArtifactArgument,
    record: Annotated[
        Path | None,
        typer.Option(help="Folder with the records of a start [default: compare this machine]", metavar="DIR"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Name the variables, paths and versions that make a start miss.

    Exits with 0 only if there are none. The records of a start are in the folder LMI_BOOT_RECORD of its server.
    """
    from dataclasses import asdict

    from compiler.artifact.manifest import load_manifest
    from compiler.report import table
    from compiler.targets import load

    manifest = load_manifest(artifact)
    findings = load(manifest.target).runtime.explain(manifest, artifact, record)
    lines = [(each.subject, each.state, each.text) for each in findings]
    remedies = dict.fromkeys(each.remedy for each in findings if each.remedy)
    text = "\n\n".join([table(lines), *(f"hint: {remedy}" for remedy in remedies)])
    show([asdict(each) for each in findings], text, as_json=as_json)
    if any(each.state == "mismatch" for each in findings):
        raise typer.Exit(1)


def migrate(
    source: Annotated[Path, typer.Argument(help="Folder of an artifact, or a serving.properties.", metavar="SOURCE")],
    target: Annotated[str, typer.Option(help="Target to migrate to.")] = "vllm",
    as_json: Json = False,
) -> None:
    """Print the vLLM build that replaces a TensorRT-LLM artifact."""
    from dataclasses import asdict

    from compiler.report import table
    from compiler.targets import load

    found = load(target).support.migration(source)
    for line in found.warnings:
        warn(line)
    rows = [*(("mapped", line) for line in found.mapped), *(("dropped", line) for line in found.dropped)]
    text = "\n".join(filter(None, [table(rows), *(f"{k}={v}" for k, v in found.properties.items()), found.command]))
    show({**asdict(found), "command": found.command}, text, as_json=as_json)
