"""The stage cache: cache ls, cache clear."""

from __future__ import annotations

import typer

from compiler.cli.help import GroupedCommands
from compiler.cli.options import Json
from compiler.cli.output import show, warn

app = typer.Typer(
    name="cache",
    help="List or clear the stage cache.",
    cls=GroupedCommands,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def ls(as_json: Json = False) -> None:
    """List the entries of the stage cache."""
    from dataclasses import asdict

    from compiler.cli.text import cache_text
    from compiler.storage.cache.stages import StageCache, cache_folder

    entries = StageCache(cache_folder(), warn=warn).stored()
    show([asdict(entry) for entry in entries], cache_text(entries), as_json=as_json)


@app.command()
def clear(as_json: Json = False) -> None:
    """Remove all entries of the stage cache; artifacts keep their files."""
    from compiler.report import amount
    from compiler.storage.cache.stages import StageCache, cache_folder

    freed = StageCache(cache_folder(), warn=warn).clear()
    show({"bytes": freed}, f"{amount(freed, 'bytes')} removed", as_json=as_json)
