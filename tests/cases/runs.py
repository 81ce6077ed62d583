"""Commands of the real command line on the checkpoint of a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.command import Ran, command

if TYPE_CHECKING:
    from pathlib import Path


def plan(folder: Path, *options: str | Path) -> Ran:
    """Run `plan --model FOLDER OPTIONS`."""
    return _run("plan", folder, *options)


def convert(folder: Path, output: Path, *options: str | Path) -> Ran:
    """Run `convert --model FOLDER --output OUTPUT OPTIONS`."""
    return _run("convert", folder, "--output", output, *options)


def build(folder: Path, output: Path, *options: str | Path, compiles: bool = False) -> Ran:
    """Run `build --model FOLDER --output OUTPUT OPTIONS`; target inductor compiles nothing unless `compiles`."""
    return _run("build", folder, "--output", output, *options, compiles=compiles)


def refused(ran: Ran, code: int, *words: str) -> None:
    """Check that a command was refused with the exit code `code`, and that its error names all `words`.

    The error is at most 12 lines, has a hint, and is no traceback.
    """
    assert ran.code == code, f"expected exit code {code}, found {ran.code}: {ran.err or ran.out[:500]}"
    missing = [word for word in words if word not in ran.err]
    assert not missing, f"expected {missing} in the error, found: {ran.err}"
    assert "Traceback" not in ran.err
    assert "hint: " in ran.err or '"hint": "' in ran.err, f"expected a hint, found: {ran.err}"
    error = ran.err[ran.err.index("error: ") :] if "error: " in ran.err else ran.err
    assert len(error.splitlines()) <= 12, f"expected a diagnosis of at most 12 lines, found: {error}"


def taken(ran: Ran, *words: str) -> None:
    """Check that a command succeeds, and that its output or its notes have all `words`."""
    assert ran.code == 0, f"expected exit code 0, found {ran.code}: {ran.err}"
    missing = [word for word in words if word not in ran.out + ran.err]
    assert not missing, f"expected {missing} in the output, found: {ran.out}{ran.err}"


def _run(name: str, folder: Path, *options: str | Path, compiles: bool = False) -> Ran:
    cache = folder.with_name(f"{folder.name}.cache")
    return command(name, "--model", folder, *options, cache=cache, compiles=compiles)
