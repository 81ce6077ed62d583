"""The command line. A command parses, makes one typed request, makes one call, prints one summary. No logic.

    options    options that several commands share, in groups: a command takes a group as one parameter
    output     results to stdout, everything else to stderr
    build      plan, convert, build, package       artifact   inspect, verify, generate
    serve      serve                               deploy     deploy
    about      models, doctor                      cache      cache ls, cache clear
    registry   push, pull, ls, promote, rollback, history, diff, gc
    trust      sign, scan, preflight               prewarm    prewarm
    matrix     matrix plan, matrix build, matrix status

Nothing heavy is imported before a command needs it: `--help` answers in a fraction of a second.
"""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli import about, artifact, build, cache, deploy, matrix, prewarm, registry, serve, trust
from compiler.cli.help import GroupedCommand, GroupedCommands
from compiler.errors import LmiCompileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COMMANDS: Mapping[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Build": (build.plan, build.convert, build.build, build.package, matrix.app, cache.app),
    "Inspect": (about.models, artifact.inspect, artifact.verify, about.doctor),
    "Run": (artifact.generate, serve.serve),
    "Publish": (
        registry.push,
        registry.pull,
        registry.ls,
        registry.promote,
        registry.rollback,
        registry.history,
        registry.diff,
        registry.gc,
        trust.sign,
        trust.scan,
    ),
    "Deploy": (trust.preflight, prewarm.prewarm, deploy.deploy),
}
"""By heading, in the order of `--help`."""

app = typer.Typer(
    name="lmi-compile",
    cls=GroupedCommands,
    help="Compile Hugging Face models ahead of time into sharded, verified artifacts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for heading, commands in COMMANDS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=heading)
        else:
            app.command(cls=GroupedCommand, rich_help_panel=heading)(command)


@app.callback(invoke_without_command=True)
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A traceback with every error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Compile Hugging Face models ahead of time into sharded, verified artifacts."""
    del verbose  # looked up by `main`, which sees errors after the commands are gone
    if version:
        from compiler import __version__

        typer.echo(__version__)


def main() -> None:
    """Run the command line; every error of ours ends as message, hint and exit code."""
    try:
        with _rarely_collected():
            app()
    except LmiCompileError as error:
        if {"-v", "--verbose"} & set(sys.argv[1:]):
            traceback.print_exc()
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """What imports make stays until the end: looking through it, again and again and once more at the very end, is a
    quarter of what a short command takes.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)
