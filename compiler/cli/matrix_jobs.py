"""A running fleet: matrix status, matrix logs, matrix cancel; and the command that its machines run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli.groups import grouped
from compiler.cli.matrix import FileOptions, app, entries_of
from compiler.cli.options import Json
from compiler.cli.output import show
from compiler.matrix.names import FORMATS

__all__ = ["app", "cancel", "cell", "emit", "logs", "report", "status"]

if TYPE_CHECKING:
    from compiler.matrix.status import Jobs


@app.command("status")
@grouped
def status(files: FileOptions, as_json: Json = False) -> None:
    """List the builds: result of the last run, running step. Plans nothing."""
    from compiler.matrix import summary

    found = _jobs(files).status(entries_of(files))
    show([one.to_json() for one in found], summary.status_text(found), as_json=as_json)


@app.command("logs")
@grouped
def logs(
    files: FileOptions,
    name: Annotated[str, typer.Argument(help="Name of the build.", metavar="NAME")],
    as_json: Json = False,
) -> None:
    """Print the log of a build, while it runs too."""
    text = _jobs(files).log(name)
    show({"name": name, "log": text}, text.rstrip("\n"), as_json=as_json)


@app.command("cancel")
@grouped
def cancel(
    files: FileOptions,
    names: Annotated[list[str] | None, typer.Argument(help="Builds [default: all]", metavar="[NAME]...")] = None,
    as_json: Json = False,
) -> None:
    """End running builds, and keep their driver from beginning others."""
    from compiler.matrix.file import chosen

    ended = _jobs(files).cancel(chosen(entries_of(files), names or ()))
    show(ended, f"{len(ended)} ended" + (f": {', '.join(ended)}" if ended else ""), as_json=as_json)


@app.command("report")
@grouped
def report(
    files: FileOptions,
    html: Annotated[Path, typer.Option(help="HTML file to write.", metavar="FILE")],
    prices: Annotated[Path | None, typer.Option(help="TOML file: price of an hour by instance type.")] = None,
    as_json: Json = False,
) -> None:
    """Write the results of all builds as one HTML page."""
    from compiler.matrix.page import page
    from compiler.matrix.view import read_prices

    rows = [one.row for one in _jobs(files).status(entries_of(files))]
    html.write_text(page(rows, files.output, read_prices(prices)))
    show({"html": str(html), "builds": len(rows)}, str(html), as_json=as_json)


@app.command("emit")
@grouped
def emit(
    files: FileOptions,
    form: Annotated[str, typer.Option("--as", help=f"Format: {', '.join(FORMATS)}.")],
    max_parallel: Annotated[int, typer.Option(help="Builds at the same time; 0: no limit.", min=0)] = 0,
    cell_timeout: Annotated[int, typer.Option(help="Time limit of a build in seconds.", min=60)] = 6 * 3600,
    as_json: Json = False,
) -> None:
    """Print the builds as a definition for another engine."""
    from compiler.errors import UsageError
    from compiler.matrix.emit import EmitOptions
    from compiler.matrix.emit import emit as run
    from compiler.matrix.file import read_engines

    if files.store is None:
        raise UsageError(
            "`matrix emit` needs `--store`", hint="the engine's machines publish to it: `--store s3://...`"
        )
    options = EmitOptions(files.store, cell_timeout, max_parallel, read_engines(files.file))
    text = run(entries_of(files), form, options)
    show({"format": form, "text": text}, text.rstrip("\n"), as_json=as_json)


@app.command("cell", hidden=True)
def cell(
    ledger: Annotated[str, typer.Argument(help="URI of the ledger.")],
    token: Annotated[str, typer.Argument(help="Attempt that this machine makes.")],
) -> None:
    """Build one cell of a fleet: the command of its machines."""
    from compiler.matrix.ledger import Ledger
    from compiler.matrix.worker import work

    row = work(Ledger(ledger), token)
    show(row.to_json(), f"{row.name}: {row.state}", as_json=True)
    raise typer.Exit(row.exit_code)


def _jobs(files: FileOptions) -> Jobs:
    from compiler.matrix.file import read_engines
    from compiler.matrix.status import Jobs

    return Jobs(files.output, files.store, read_engines(files.file))
