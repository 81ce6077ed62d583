"""Help: every line within 80 characters, nothing cut off, in groups."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import typer

from compiler import targets
from compiler.cli import COMMANDS, app
from compiler.cli.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 80


def commands(command: Any, context: Any = None, name: str = "lmi-compile") -> Iterator[tuple[str, str]]:
    """Name and help of a command and of all below it."""
    own = command.make_context(name, [], parent=context, resilient_parsing=True)
    yield own.command_path, command.get_help(own)
    for below in getattr(command, "commands", {}).values():
        yield from commands(below, own, below.name)


HELP = dict(commands(typer.main.get_command(app)))


def headings(command: str) -> list[str]:
    return [line.removesuffix(":") for line in HELP[command].splitlines() if line[:1].isalpha() and line.endswith(":")]


@pytest.mark.parametrize("command", HELP)
def test_lines_fit_and_nothing_is_cut_off(command: str) -> None:
    lines = HELP[command].splitlines()
    cut = re.compile(r"(?<![]}A-Z])\.\.\.$")  # but COMMAND [ARGS]..., {prompts}... of a usage line
    assert [line for line in lines if len(line) > WIDTH or cut.search(line.rstrip())] == []


def test_commands_are_grouped() -> None:
    assert headings("lmi-compile") == ["Options", *COMMANDS]


def test_options_of_a_build_are_grouped_and_a_target_has_its_own() -> None:
    own = [f"Target {name}" for name in targets.available() if any("help" in f for f in metadata(name))]
    shared = ["Model", "Parallelism", "Quantization", "Limits", "Output", "Compile"]
    assert headings("lmi-compile build") == [*shared, *own, "Options", "Examples"]
    assert "Target trtllm" in own
    first, _, rest = HELP["lmi-compile build"].partition("Target trtllm:")
    assert "--moe-ep" in rest
    assert "--moe-ep" not in first


def parse(words: list[str]) -> str:
    """Path of the command that a command line is for. Raises the parser's error where it does not parse."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("lmi-compile", words[:1])
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)
    return str(context.command_path)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_a_command_line_that_parses(line: str) -> None:
    path = parse([word for word in shlex.split(line) if word.strip()])
    assert line == path.removeprefix("lmi-compile ") or line.startswith(f"{path.removeprefix('lmi-compile ')} ")
    assert f"\n  lmi-compile {line}\n" in HELP[path] + "\n"


def test_every_command_has_an_example() -> None:
    assert {f"lmi-compile {name}" for name in EXAMPLES} == HELP.keys() - {"lmi-compile", "lmi-compile matrix cell"}


def metadata(target: str) -> list[Any]:
    return [field.metadata for field in vars(targets.options_of(target))["__dataclass_fields__"].values()]
