"""Trust in an artifact: sign, scan, preflight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compiler.cli.options import ArtifactArgument, Json
from compiler.cli.output import show


def sign(
    artifact: ArtifactArgument,
    key: Annotated[str, typer.Option(help="PEM file with an ed25519 private key; `-` reads it from stdin.")],
    as_json: Json = False,
) -> None:
    """Sign an artifact's manifest. It covers every file by its digest."""
    from compiler.artifact.sign import sign as run

    file = run(artifact, key)
    show({"signature": str(file)}, str(file), as_json=as_json)


def scan(artifact: ArtifactArgument, as_json: Json = False) -> None:
    """Search an artifact for credentials and build-machine paths."""
    from compiler.artifact.manifest import load_manifest
    from compiler.artifact.scan import check_publishable

    manifest = load_manifest(artifact)
    check_publishable(artifact, manifest)
    show({"files": len(manifest.files), "findings": []}, f"{len(manifest.files)} files, nothing found", as_json=as_json)


def preflight(
    source: Annotated[str, typer.Argument(help="Folder of an artifact, or STORE/NAME[@TAG].")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder it will run from [default: its own, or this one]", metavar="[DIR]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether this machine can run an artifact. Reads only its manifest."""
    from dataclasses import asdict

    from compiler.deploy.preflight import preflight as look
    from compiler.deploy.preflight import refuse
    from compiler.registry.resolve import manifest_of
    from compiler.report import table

    manifest = manifest_of(source)
    findings = look(manifest, folder or (Path(source) if Path(source).is_dir() else Path()))
    lines = [(f.subject, f.state, f.text) for f in findings]
    show([asdict(finding) for finding in findings], table(lines), as_json=as_json)
    refuse(manifest.name, findings)
