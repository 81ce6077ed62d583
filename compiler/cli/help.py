"""Help texts in groups: options of a command and commands of the program under headings.

typer groups them (`rich_help_panel`) only with rich, whose import alone exceeds the time limit of `--help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

PANELS = ("Model", "Parallelism", "Quantization", "Limits", "Output", "Compile")
"""Order of the first headings of options; other headings follow in order of appearance, `Options` last."""


class GroupedCommand(TyperCommand):
    """A command whose options are shown under the headings of their groups, and examples behind them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write every option in full; lines are at most as wide as the terminal, or 80 characters."""
        rows = [
            (
                "Arguments" if param.param_type_name == "argument" else getattr(param, "rich_help_panel", None),
                param.get_help_record(ctx),
            )
            for param in self.get_params(ctx)
        ]
        named = ((heading or "Options", record) for heading, record in rows if record is not None)
        _write(formatter, named, ("Arguments", *PANELS), "Options")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on a line of its own."""
        _write_examples(ctx, formatter)


class GroupedCommands(TyperGroup):
    """A program whose commands are shown under the headings of their groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the first paragraph of each command's help in full."""
        found = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        rows = (
            (getattr(command, "rich_help_panel", None) or "Commands", (name, _first(command.help)))
            for name, command in found
            if not command.hidden
        )
        _write(formatter, rows, (), "Commands")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on a line of its own."""
        _write_examples(ctx, formatter)


def _write(formatter: Any, rows: Iterable[tuple[str, tuple[str, str]]], first: tuple[str, ...], last: str) -> None:
    sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in first}
    for heading, record in rows:
        sections.setdefault(heading, []).append(record)
    for heading in sorted(sections, key=last.__eq__):
        if sections[heading]:
            with formatter.section(heading):
                formatter.write_dl(sections[heading])


def _write_examples(ctx: Any, formatter: Any) -> None:
    from compiler.cli.examples import examples_of

    if found := examples_of(ctx.command_path):
        with formatter.section("Examples"):
            for line in found:
                formatter.write(f"  {line}\n")


def _first(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())
