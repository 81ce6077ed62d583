"""report: one HTML page about an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compiler.cli.options import ArtifactArgument, Json
from compiler.cli.output import show


def report(
    artifact: ArtifactArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write [default: NAME.html]", metavar="FILE")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Another artifact, beside the first.", metavar="DIR")] = None,
    events: Annotated[Path | None, typer.Option(help="What `build --json` printed on stderr.", metavar="FILE")] = None,
    prewarm: Annotated[
        Path | None, typer.Option(help="Report of a prewarm [default: prewarm.json in it]", metavar="FILE")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="JSON: seconds to the first token by mode.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an HTML page about an artifact."""
    from compiler.artifact.manifest import load_manifest
    from compiler.errors import UsageError
    from compiler.page import page_of
    from compiler.page.facts import Records

    folders = [artifact, *([compare] if compare else [])]
    text = page_of(folders, Records(events, prewarm, start))
    file = output or Path(f"{load_manifest(artifact).name}.html")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", hint="name a writable file with `--output`"
        ) from None
    show({"file": str(file), "bytes": len(text.encode())}, str(file), as_json=as_json)
