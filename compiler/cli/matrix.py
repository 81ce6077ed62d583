"""Builds that a builds.toml lists: matrix plan, matrix build, matrix status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli.groups import grouped
from compiler.cli.help import GroupedCommands
from compiler.cli.options import Json
from compiler.cli.output import reporting, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.matrix.file import BuildEntry
    from compiler.matrix.state import MatrixRow

app = typer.Typer(
    name="matrix",
    help="Build the artifacts that a builds.toml lists.",
    cls=GroupedCommands,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class FileOptions:
    """Selection of builds, and the places of their artifacts."""

    file: Annotated[Path, typer.Option("--file", "-f", help="File that lists the builds.")] = Path("builds.toml")
    only: Annotated[list[str] | None, typer.Option(help="Only this build; may be repeated.", metavar="NAME")] = None
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the artifacts.")] = Path("artifacts")
    store: Annotated[str | None, typer.Option(help="Store to publish the artifacts to.", metavar="URI")] = None
    jobs: Annotated[int, typer.Option(help="Builds that run at the same time.", min=1)] = 1
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file, as Markdown.")] = None


@app.command("plan")
@grouped
def plan(files: FileOptions, as_json: Json = False) -> None:
    """List builds that are new, changed or impossible."""
    from compiler import __version__
    from compiler.matrix.run import Destination
    from compiler.matrix.run import plan as run

    with reporting(as_json=as_json) as report:
        rows = run(_entries(files), Destination(files.output, files.store), __version__, report, files.jobs)
    _show(rows, files, as_json=as_json)


@app.command("build")
@grouped
def build(
    files: FileOptions,
    key: Annotated[str | None, typer.Option(help="PEM file with the ed25519 key to sign with.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Build, scan, sign and publish new and changed artifacts.

    A failure does not stop the other builds.
    """
    from compiler import __version__
    from compiler.matrix import summary
    from compiler.matrix.run import Destination
    from compiler.matrix.run import build as run

    with reporting(as_json=as_json) as report:
        rows = run(_entries(files), Destination(files.output, files.store, key), __version__, report, files.jobs)
    if junit is not None:
        junit.write_bytes(summary.junit(rows, files.output))
    _show(rows, files, as_json=as_json)


@app.command("status")
@grouped
def status(files: FileOptions, as_json: Json = False) -> None:
    """List the builds with the result of each last run, without planning."""
    from compiler.matrix import summary
    from compiler.matrix.state import MatrixRow, read_record

    rows = [read_record(files.output, entry.name) or MatrixRow(entry.name, "new") for entry in _entries(files)]
    show([row.to_json() for row in rows], summary.text(rows), as_json=as_json)


def _entries(files: FileOptions) -> tuple[BuildEntry, ...]:
    from compiler.matrix.file import chosen, read_builds

    return chosen(read_builds(files.file, _build_options()), files.only or ())


def _build_options() -> list[str]:
    """Long options of `lmi-compile build`, without `--`."""
    from compiler.cli import app as whole

    command: Any = typer.main.get_command(whole)
    return [
        word.removeprefix("--")
        for parameter in command.commands["build"].params
        for word in parameter.opts
        if word.startswith("--")
    ]


def _show(rows: Sequence[MatrixRow], files: FileOptions, *, as_json: bool) -> None:
    """Print the rows, and exit with the code of the first build that failed or was refused."""
    from compiler.matrix import summary

    if files.markdown is not None:
        files.markdown.write_text(summary.markdown(rows))
    show([row.to_json() for row in rows], summary.text(rows), as_json=as_json)
    failed = [row for row in rows if row.state in summary.BAD]
    if failed:
        raise typer.Exit(failed[0].exit_code or 1)
