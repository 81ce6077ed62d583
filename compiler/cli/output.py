"""Where output goes: results to stdout (text, or JSON for scripts), progress and warnings to stderr."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.report import Lines


def show(data: Any, text: str, *, as_json: bool) -> None:
    """The result of a command: `text` for people, `data` with `--json`."""
    typer.echo(json.dumps(data, indent=2, sort_keys=True) if as_json else text)


def warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


@contextmanager
def reporting(*, as_json: bool = False) -> Iterator[Lines]:
    """Bars or lines on stderr, or events with `--json`; cleaned up after an error too."""
    from compiler.report import Events, for_stream

    report = Events(sys.stderr) if as_json else for_stream()
    try:
        yield report
    finally:
        report.close()
