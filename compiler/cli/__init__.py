"""Command line. A command parses its options, makes one typed request and one call, and prints one summary; no logic.

    options    options that several commands share, in groups (`groups`, `target_options`), and their requests
    output     results to stdout, everything else to stderr
    build      plan, convert, build, package       artifact   inspect, verify, generate
    serve      serve                               deploy     deploy, status, undeploy
    about      models, doctor                      cache      cache ls, cache clear
    registry   push, pull, ls, promote, rollback, history, diff, gc
    neo        neo
    trust      sign, scan, preflight               prewarm    prewarm
    matrix     matrix plan, matrix build           matrix_jobs matrix status, logs, cancel
    recommend  recommend
    startup    explain-miss, migrate                page       report
    examples   last lines of each command's `--help`

Heavy packages are imported by the commands that need them, so that `--help` takes a fraction of a second.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import shlex
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, cast

import typer

from compiler.cli import (
    about,
    artifact,
    build,
    cache,
    deploy,
    matrix_jobs,
    neo,
    page,
    prewarm,
    recommend,
    registry,
    serve,
    startup,
    trust,
)
from compiler.cli.help import GroupedCommand, GroupedCommands
from compiler.cli.output import AGAIN, show_error
from compiler.errors import REPORT_IT, InternalError, LmiCompileError, StoppedError, UsageError, boundary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COMMANDS: Mapping[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Build": (
        build.plan,
        build.convert,
        build.build,
        build.package,
        neo.neo,
        startup.migrate,
        matrix_jobs.app,
        cache.app,
    ),
    "Inspect": (about.models, artifact.inspect, artifact.verify, page.report, about.doctor),
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
    "Deploy": (
        recommend.recommend,
        trust.preflight,
        prewarm.prewarm,
        startup.explain_miss,
        deploy.deploy,
        deploy.status,
        deploy.undeploy,
    ),
}
"""Commands by heading, in the order of `--help`."""
USAGE_ERROR = cast(
    "type[typer.BadParameter]", next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
)
"""Base class of usage errors; newer releases of typer carry a click of their own."""

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
            for info in command.registered_commands:
                info.cls = GroupedCommand
            app.add_typer(command, rich_help_panel=heading)
        else:
            app.command(cls=GroupedCommand, rich_help_panel=heading)(command)


@app.callback(invoke_without_command=True)
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print a traceback with every error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Compile Hugging Face models ahead of time into sharded, verified artifacts."""
    del verbose  # `main` reads it from sys.argv: it catches errors after this context has ended
    if version:
        from compiler import __version__

        typer.echo(__version__)


def main() -> None:
    """Run the command line. Errors end as message, hint and exit code; with `--json` as one JSON object on stderr.

    An exception that nothing foresees is a bug: its traceback goes to a file that the error names, and to stderr only
    with `--verbose` or LMI_COMPILE_TRACEBACK. The exit code after Ctrl-C is 130 (StoppedError).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is not valid Unicode, from the command line or from a file, must not end a command.
            stream.reconfigure(errors="backslashreplace")
    try:
        with _rare_garbage_collection(), boundary(command=shlex.join(["lmi-compile", *sys.argv[1:]])):
            sys.exit(_run())
    except LmiCompileError as error:
        sys.exit(_failed(error))
    except KeyboardInterrupt:
        sys.exit(_failed(StoppedError("stopped by Ctrl-C", hint=AGAIN)))


def _run() -> int:
    """Exit code of the command in sys.argv. Raises LmiCompileError, and exceptions that nothing foresees."""
    try:
        # Outside of standalone mode usage errors are raised here and not printed, and `typer.Exit` returns its code.
        # It returns the code of Ctrl-C, too.
        code: int = app(standalone_mode=False) or 0
    except USAGE_ERROR as error:
        if not _as_json():
            error.show()
            return error.exit_code
        raise UsageError(error.format_message(), hint="`--help` after a command lists its options") from None
    except typer.Abort:
        code = StoppedError.exit_code
    if code == StoppedError.exit_code:
        raise StoppedError("stopped by Ctrl-C", hint=AGAIN)
    return code


def _failed(error: LmiCompileError) -> int:
    """Print an error; return its exit code."""
    if {"-v", "--verbose"} & set(sys.argv[1:]) or os.environ.get("LMI_COMPILE_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, InternalError):
        from compiler.storage.cache.crashes import write_crash_file

        path = write_crash_file(error)
        error.hint = (
            f"report it to the maintainers of lmi-compile with the file {path}, which has the traceback"
            if path
            else f"run it again with LMI_COMPILE_TRACEBACK=1, and {REPORT_IT}"
        )
    elif error.log:
        from compiler.storage.cache.crashes import write_log

        path = write_log(error.log, "log")
        error.hint = "\n".join([error.hint, f"The log is {path}" if path else error.log])
    show_error(error, as_json=_as_json())
    return error.exit_code


def _as_json() -> bool:
    return "--json" in sys.argv[1:]


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Collect garbage rarely, and not at exit: objects made by imports live until the end, and scanning them takes a
    quarter of a short command's time.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)
