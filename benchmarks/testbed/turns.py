"""Turns of one command in two checkouts: arguments, runs, and the row of a table."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OLD, NEW = "old", "new"


@dataclass(frozen=True)
class Turns:
    """A command and its checkouts by side. `command`: arguments of Python, in which `{side}` is `old` or `new`.

    `figure`: expression whose group is the figure in the command's output; None: its wall time in seconds.
    """

    checkouts: Mapping[str, Path]
    command: tuple[str, ...]
    runs: int
    figure: re.Pattern[str] | None

    @property
    def order(self) -> list[str]:
        """Sides in order, a warm-up of each first; who begins changes from run to run."""
        return [side for run in range(self.runs + 1) for side in ((OLD, NEW) if run % 2 == 0 else (NEW, OLD))]


def turns_of(arguments: Sequence[str], description: str, here: Path) -> Turns:
    """Turns of a command line; the new side is `here` by default. Raises SystemExit for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against",
        usage="%(prog)s CHECKOUT [--new CHECKOUT] [--runs N] [--figure EXPRESSION] -- ARGUMENTS OF PYTHON",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, metavar="CHECKOUT", help="checkout of the old state")
    parser.add_argument("--new", type=Path, default=here, metavar="CHECKOUT", help="default: this one")
    parser.add_argument("--runs", type=int, default=5, help="runs of each that count (default: %(default)s)")
    parser.add_argument("--figure", metavar="EXPRESSION", help="regular expression with one group, a number")
    own, command = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    options = parser.parse_args(own)
    checkouts = {OLD: options.old.resolve(), NEW: options.new.resolve()}
    for side, folder in checkouts.items():
        if not (folder / "compiler" / "__init__.py").is_file():
            parser.error(f"the {side} checkout has a folder `compiler`; {folder} has none")
    if checkouts[OLD] == checkouts[NEW]:
        parser.error(f"two checkouts take turns; {options.old} is both: `git worktree add DIR COMMIT` makes another")
    if not command:
        parser.error("expected arguments of Python behind `--`, such as `-- -m compiler --help`")
    if options.runs < 1:
        parser.error(f"`--runs` is 1 or more; found {options.runs}")
    try:
        figure = re.compile(options.figure) if options.figure else None
    except re.error as error:
        parser.error(f"`--figure {options.figure}` is no regular expression: {error}")
    if figure is not None and figure.groups != 1:
        parser.error(f"`--figure` has one group, the number; found {figure.groups} in `{options.figure}`")
    return Turns(checkouts, tuple(command), options.runs, figure)


def measure(turns: Turns) -> dict[str, list[float]]:
    """Figures of each side, without the warm-up. Raises SystemExit if a command fails or prints no figure."""
    found: dict[str, list[float]] = {side: [] for side in turns.checkouts}
    for side in turns.order:
        found[side].append(_figure(turns, side))
        print(f"{side} {found[side][-1]:.4g}", file=sys.stderr, flush=True)
    return {side: figures[1:] for side, figures in found.items()}


def _figure(turns: Turns, side: str) -> float:
    checkout = turns.checkouts[side]
    own = checkout / ".venv" / "bin" / "python"
    command = [str(own) if own.exists() else sys.executable, *(word.replace("{side}", side) for word in turns.command)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    began = time.monotonic()
    run = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if run.returncode:
        raise SystemExit(f"{side}: exit code {run.returncode} in {checkout}\n{run.stdout}{run.stderr}")
    if turns.figure is None:
        return seconds
    match = turns.figure.search(run.stdout)
    if match is None:
        raise SystemExit(f"{side}: nothing printed matches `{turns.figure.pattern}`:\n{run.stdout}")
    return float(match[1])


def commit(checkout: Path) -> str:
    """Commit of a checkout, with `+` behind it where files differ from it; "" outside of git."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def table(found: Mapping[str, Sequence[float]]) -> str:
    """Medians, all figures and the ratio of medians, in Markdown."""
    old, new = (statistics.median(found[side]) for side in (OLD, NEW))
    every = [" ".join(f"{figure:.4g}" for figure in found[side]) for side in (OLD, NEW)]
    return (
        "| old | new | new / old | all old | all new |\n|---|---|---|---|---|\n"
        f"| {old:.4g} | {new:.4g} | {new / old:.3f} | {every[0]} | {every[1]} |"
    )
