"""Builds that a builds.toml lists: matrix plan, matrix build. The commands of a running fleet: matrix_jobs.py."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from compiler.cli.groups import grouped
from compiler.cli.help import GroupedCommands
from compiler.cli.options import Json
from compiler.cli.output import reporting, show
from compiler.matrix.names import NAMES

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
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file, as Markdown.")] = None


@dataclass(frozen=True)
class FleetOptions:
    """Engine that runs the builds, and its limits."""

    panel: ClassVar[str] = "Engine"

    on: Annotated[str, typer.Option(help=f"Engine that runs them: {', '.join(NAMES)}.")] = "local"
    jobs: Annotated[
        int | None,
        typer.Option("--max-parallel", "--jobs", help="Builds at the same time [default: the engine's room]", min=1),
    ] = None
    wait: Annotated[bool, typer.Option(help="Wait for the end; else a process of its own goes on.")] = True
    max_cells: Annotated[int, typer.Option(help="Budget: builds begun; 0: none.", min=0)] = 0
    max_hours: Annotated[float, typer.Option(help="Budget: hours of all machines together; 0: none.", min=0)] = 0.0
    cell_timeout: Annotated[float, typer.Option(help="Time limit of a build in seconds; 0: none.", min=0)] = 0.0
    prices: Annotated[Path | None, typer.Option(help="TOML file: price of an hour by instance type.")] = None


@app.command("plan")
@grouped
def plan(
    files: FileOptions,
    jobs: Annotated[int, typer.Option(help="Plans at the same time.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """List builds that are new, changed or impossible."""
    from compiler import __version__
    from compiler.matrix.run import Destination
    from compiler.matrix.run import plan as run

    with reporting(as_json=as_json) as report:
        rows = run(entries_of(files), Destination(files.output, files.store), __version__, report, jobs)
    _show(rows, files, as_json=as_json)


@app.command("build")
@grouped
def build(
    files: FileOptions,
    fleet: FleetOptions,
    key: Annotated[str | None, typer.Option(help="PEM file with the ed25519 key to sign with.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Build, scan, sign and publish new and changed artifacts.

    A failure does not stop the other builds. Run again after a kill, it resumes.
    """
    from compiler import __version__
    from compiler.matrix import summary
    from compiler.matrix.file import read_engines
    from compiler.matrix.run import Destination, EngineChoice
    from compiler.matrix.run import build as run
    from compiler.matrix.task import FleetLimits
    from compiler.matrix.view import read_prices, view_for

    prices, entries = read_prices(fleet.prices), entries_of(files)
    if not fleet.wait:
        _leave(files, as_json=as_json)
        return
    limits = FleetLimits(fleet.jobs or 0, fleet.max_cells, fleet.max_hours)
    engine = EngineChoice(fleet.on, limits, read_engines(files.file), fleet.cell_timeout)
    place, view = Destination(files.output, files.store, key), view_for(prices, as_json=as_json)
    with reporting(as_json=as_json) as report, closing(view):
        rows = run(entries, place, __version__, report, engine, jobs=fleet.jobs or 1, view=view)
    if junit is not None:
        junit.write_bytes(summary.junit(rows, files.output))
    _show(rows, files, as_json=as_json)


def _leave(files: FileOptions, *, as_json: bool) -> None:
    """Run this command in a process of its own, and print where its log is."""
    log = files.output / ".matrix" / "driver.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [word for word in sys.argv[1:] if word != "--no-wait"]
    with log.open("w") as stream:
        driver = subprocess.Popen(
            [sys.executable, "-m", "compiler", *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    facts = {"driver": driver.pid, "log": str(log)}
    show(facts, f"driver {driver.pid}, log {log}; see `lmi-compile matrix status`", as_json=as_json)


def entries_of(files: FileOptions) -> tuple[BuildEntry, ...]:
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
    failed = [row for row in rows if row.state in summary.BAD or row.error]
    if failed:
        raise typer.Exit(failed[0].exit_code or 1)
