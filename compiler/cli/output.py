"""Output streams: results go to stdout (text, or JSON for scripts), progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from compiler.errors import StoppedError, boundary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.errors import LmiCompileError
    from compiler.report import Lines


def show(data: Any, text: str, *, as_json: bool) -> None:
    """Print the result of a command: `text` for people, `data` with `--json`."""
    typer.echo(json.dumps(data, indent=2, sort_keys=True) if as_json else text)


def show_error(error: LmiCompileError, *, as_json: bool) -> None:
    """Print an error: message and hint for people, with `--json` one line
    {"error": {"type", "message", "hint", "exit_code"}}.
    """
    if as_json:
        facts = {
            "type": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        typer.echo(json.dumps({"error": facts}), err=True)
        return
    hint = f"\n\nhint: {error.hint}" if error.hint else ""
    typer.echo(f"error: {error.message}{hint}", err=True)


def warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


AGAIN = "run the same command again"
"""Hint after Ctrl-C for commands that keep nothing."""


@contextmanager
def reporting(*, as_json: bool = False, kept: str = AGAIN, max_memory: int = 0) -> Iterator[Lines]:
    """Report on stderr: bars or lines, or JSON events with `--json`; closed after an error too. `kept`: hint after
    Ctrl-C; `max_memory`: ceiling that events name beside peaks, in bytes. Raises StoppedError after Ctrl-C.
    """
    from compiler.machine import MemoryPeak
    from compiler.report import Events, for_stream

    report = Events(sys.stderr, MemoryPeak(), max_memory) if as_json else for_stream()
    try:
        with boundary(step=lambda: report.stage):
            yield report
    except KeyboardInterrupt:
        where = f" in stage `{report.stage}`" if report.stage else ""
        raise StoppedError(f"stopped by Ctrl-C{where}", hint=kept) from None
    finally:
        report.close()


def kept_stages() -> str:
    """Hint after Ctrl-C for builds."""
    from compiler.storage.cache.stages import cache_folder

    return f"finished stages and packages are kept in {cache_folder()}: {AGAIN}, it goes on after them"
