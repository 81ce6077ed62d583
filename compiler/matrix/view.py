"""Views of a running fleet: a table on a terminal, a line for each change elsewhere, JSON objects for scripts."""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.report import amount, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    from rich.live import Live
    from rich.table import Table

    from compiler.matrix.task import Task

_EVERY = 0.5
"""Seconds between two tables."""
_ROWS = 30
"""Most rows of a table; the summary below it counts the others."""
_ORDER = ("running", "queued", "elsewhere", "waiting", "ended")

_PRICES_HINT = 'one line an instance type, in quotes: `"ml.g5.12xlarge" = 7.09`'
Prices = dict[str, float]
"""Price of an hour by instance type."""


class Quiet:
    """No view: for the Python API."""

    detailed = False

    def changed(self, task: Task) -> None: ...
    def tick(self, tasks: Sequence[Task]) -> None: ...
    def warn(self, text: str) -> None: ...
    def close(self) -> None: ...


class ChangeLines(Quiet):
    """One line for each change, for a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def changed(self, task: Task) -> None:
        if task.phase != "waiting":
            self._say(f"{task.row.name}: {_state(task)}{_ending(task)}")

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class ChangeEvents(ChangeLines):
    """One JSON object per line: {"event": "cell", "name", "phase", "state", "attempt", "seconds", "failures"}."""

    def changed(self, task: Task) -> None:
        self._say(json.dumps({"event": "cell", **cell_facts(task)}))

    def warn(self, text: str) -> None:
        self._say(json.dumps({"event": "warning", "stage": "build", "text": text}))


class LiveTable(ChangeLines):
    """Table of the cells, drawn anew: state, running step, rate, time, time left, cost."""

    detailed = True

    def __init__(self, stream: TextIO, prices: Prices) -> None:
        super().__init__(stream)
        self._prices, self._drawn, self._live = prices, 0.0, _live(stream)

    def changed(self, task: Task) -> None: ...

    def tick(self, tasks: Sequence[Task]) -> None:
        now = time.monotonic()
        if now - self._drawn < _EVERY and any(task.phase != "ended" for task in tasks):
            return
        self._drawn = now
        if not self._live.is_started:
            self._live.start()
        self._live.update(_table(tasks, self._prices), refresh=True)

    def warn(self, text: str) -> None:
        self._live.console.print(f"warning: {text}", markup=False)

    def close(self) -> None:
        self._live.stop()


def view_for(prices: Prices, *, as_json: bool, stream: TextIO | None = None) -> Quiet:
    """A table on a terminal outside CI, lines elsewhere."""
    stream = stream or sys.stderr
    if as_json:
        return ChangeEvents(stream)
    if stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return LiveTable(stream, prices)
    return ChangeLines(stream)


def read_prices(path: Path | None) -> Prices:
    """Prices in a TOML file: `"ml.g5.12xlarge" = 7.09`. Raises UsageError."""
    if path is None:
        return {}
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not a file of prices: {error}", hint=_PRICES_HINT) from None
    if wrong := [name for name, price in found.items() if not isinstance(price, int | float)]:
        raise UsageError(f"{path}: `{wrong[0]}`: expected a number, found {found[wrong[0]]!r}", hint=_PRICES_HINT)
    return {name: float(price) for name, price in found.items()}


def cell_facts(task: Task) -> dict[str, Any]:
    """State of a cell, for scripts."""
    return {
        "name": task.row.name,
        "phase": task.phase,
        "state": task.row.state,
        "attempt": len(task.failures) + 1,
        "failures": list(task.failures),
        "seconds": round(task.seconds, 1),
        **({"step": task.facts} if task.facts else {}),
    }


def step_text(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    """Running step, its rate, and the time that it still takes; "" for what is not known."""
    stage, done, total, took = (facts.get(name) for name in ("stage", "done", "total", "seconds"))
    if not done or not total or not took:
        return str(stage or ""), "", ""
    rate = float(done) / float(took)
    left = (float(total) - float(done)) / rate
    return (
        f"{stage} {100 * float(done) / float(total):.0f} %",
        f"{amount(rate, str(facts.get('unit', '')))}/s",
        seconds(left),
    )


def cost(seconds_of_cell: float, instance: str, prices: Prices) -> float | None:
    """Price of a cell's time; None where the price of its instance type is not known."""
    return seconds_of_cell / 3600 * prices[instance] if instance in prices else None


def fleet_left(tasks: Sequence[Task]) -> float | None:
    """Seconds until all cells have ended, if the others take as long as those that have; None before the first."""
    ended = [task.seconds for task in tasks if task.phase == "ended" and task.row.state in ("built", "failed")]
    running = sum(task.job is not None for task in tasks)
    if not ended or not running:
        return None
    mean = sum(ended) / len(ended)
    left = sum(
        max(mean - (task.seconds - task.spent if task.job else 0.0), 0.0) for task in tasks if task.phase != "ended"
    )
    return left / running


def _state(task: Task) -> str:
    if task.phase == "ended":
        return task.row.state
    return "built by another driver" if task.phase == "elsewhere" else task.phase


def _ending(task: Task) -> str:
    if task.phase != "ended":
        return f" (attempt {len(task.failures) + 1})" if task.failures else ""
    note = f", {task.row.step}: {task.row.error.partition(chr(10))[0]}" if task.row.error else ""
    return f" in {seconds(task.row.seconds)}{note}"


def _live(stream: TextIO) -> Live:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(file=stream), auto_refresh=False)


def _table(tasks: Sequence[Task], prices: Prices) -> Table:
    from rich.table import Table
    from rich.text import Text

    columns = ["build", "state", "step", "rate", "time", "left", *(["cost"] if prices else [])]
    table = Table(*columns, box=None, pad_edge=False)
    ordered = sorted(tasks, key=lambda task: _ORDER.index(task.phase))
    for task in ordered[:_ROWS]:
        step, rate, left = step_text(task.facts) if task.phase == "running" else ("", "", "")
        attempt = f" ({len(task.failures) + 1})" if task.failures else ""
        paid = cost(task.seconds, task.cell.resources.instance, prices)
        cells = [task.row.name, _state(task) + attempt, step, rate, seconds(task.seconds) if task.seconds else "", left]
        table.add_row(*map(Text, [*cells, *([] if not prices else ["" if paid is None else f"{paid:.2f}"])]))
    table.caption = _caption(tasks, prices)
    table.caption_justify = "left"
    return table


def _caption(tasks: Sequence[Task], prices: Prices) -> str:
    phases = [_state(task) for task in tasks]
    parts = [f"{phases.count(phase)} {phase}" for phase in dict.fromkeys(phases)]
    left = fleet_left(tasks)
    parts += [f"about {seconds(left)} left"] if left is not None else []
    paid = [cost(task.seconds, task.cell.resources.instance, prices) for task in tasks]
    known = [one for one in paid if one is not None]
    parts += [f"cost {sum(known):.2f}"] if known else []
    return ", ".join(parts)
