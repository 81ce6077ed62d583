"""Groups of options: what a command takes as one value, a user gives as options of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from compiler.cli.groups import grouped
from compiler.cli.options import Json


@dataclass(frozen=True)
class Colour:
    hue: Annotated[str, typer.Option("--hue", help="Which.")]
    depth: Annotated[int, typer.Option(help="How much.")] = 3


def test_the_fields_of_a_group_are_options_and_arrive_as_one_value() -> None:
    app, got = typer.Typer(), []

    @grouped
    def paint(wall: Annotated[str, typer.Argument()], colour: Colour, as_json: Json = False) -> None:
        got.append((wall, colour, as_json))

    app.command()(paint)
    run = CliRunner().invoke(app, ["north", "--hue", "red", "--depth", "5", "--json"])
    assert run.exit_code == 0, run.output
    CliRunner().invoke(app, ["south", "--hue", "blue"])
    assert got == [("north", Colour("red", 5), True), ("south", Colour("blue", 3), False)]
    assert CliRunner().invoke(app, ["west"]).exit_code == 2  # --hue has no default


def test_two_options_of_one_name_are_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="`depth`"):

        @grouped
        def paint(colour: Colour, depth: int = 1) -> None: ...
