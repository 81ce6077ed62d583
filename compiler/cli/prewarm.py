"""prewarm: prepare a machine before it gets traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compiler.cli.options import Json, RequireSignature
from compiler.cli.output import reporting, show, warn


def prewarm(
    source: Annotated[str, typer.Argument(help="STORE/NAME[@TAG], or the folder of an artifact.")],
    folder: Annotated[Path, typer.Argument(help="Folder to fetch it into; may be the source itself.", metavar="DIR")],
    require_signature: RequireSignature = None,
    prompt: Annotated[str, typer.Option(help="Prompt of the test request.")] = "Hello",
    report_file: Annotated[
        Path | None, typer.Option("--report", help="JSON file for the report [default: prewarm.json in DIR]")
    ] = None,
    allow_unproven: Annotated[
        bool, typer.Option("--allow-unproven", help="Exit with 0 even if this machine cannot run it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch, verify and load an artifact and let it answer once. Exits with 0 only if it does."""
    import json

    from compiler.deploy.prewarm import REPORT
    from compiler.deploy.prewarm import prewarm as run
    from compiler.errors import UnprovenError
    from compiler.report import amount, table

    file = report_file or folder / REPORT
    unproven = None
    with reporting(as_json=as_json) as report:
        try:
            run(source, folder, report, key=require_signature, prompt=prompt, file=file)
        except UnprovenError as error:
            unproven = error
    facts = json.loads(file.read_bytes())
    rows = [
        (phase["name"], f"{phase['seconds']:.2f} s", amount(phase["nbytes"], "bytes") if phase["nbytes"] else "")
        for phase in facts["phases"]
    ]
    answer = facts["answer"]
    first = [("first token", f"{answer['seconds_to_first_token']:.2f} s", "")] if answer else []
    show(facts, table([*rows, *first]), as_json=as_json)
    if unproven is not None:
        if not allow_unproven:
            raise unproven
        warn(unproven.message)
