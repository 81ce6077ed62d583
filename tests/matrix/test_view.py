"""Table of a running fleet on a terminal: a real one, whose other end the test reads."""

from __future__ import annotations

import os
import pty
import re
import time
from contextlib import closing

import pytest

from compiler.matrix.jobs import MatrixJob
from compiler.matrix.state import MatrixRow
from compiler.matrix.task import Task
from compiler.matrix.view import ChangeLines, LiveTable, view_for
from tests.matrix.test_aws import CELL

INSTANCE = CELL.resources.instance
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def tasks() -> list[Task]:
    """A cell without a job, one in the engine's queue, one at its second attempt, and one that ended."""
    now = time.time()
    ended = Task(CELL, MatrixRow("done", "built", seconds=100.0), phase="ended", spent=100.0)
    running = Task(CELL, MatrixRow("big", "new"), phase="running", failures=("lost",), spent=40.0)
    running.job = MatrixJob("big", "batch", "1", "t", "k", now - 20)
    running.facts = {"stage": "convert", "done": 25e9, "total": 100e9, "unit": "bytes", "seconds": 10.0}
    queued = Task(CELL, MatrixRow("next", "new"), phase="queued")
    queued.job = MatrixJob("next", "batch", "2", "t", "k", now)
    return [Task(CELL, MatrixRow("last", "new")), queued, running, ended]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return pty.openpty()


def test_a_terminal_shows_queued_and_running_cells_with_rate_time_left_and_cost(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    with os.fdopen(theirs, "w") as stream:
        view = view_for({INSTANCE: 36.0}, as_json=False, stream=stream)
        assert isinstance(view, LiveTable)
        with closing(view):
            view.tick(tasks())
            view.warn("big: lost: the machine went away; begun again")
        stream.flush()
        text = _ESCAPES.sub("", os.read(ours, 1 << 16).decode())
    os.close(ours)
    lines = {line.split()[0]: line for line in text.replace("\r", "").splitlines() if line.strip()}
    assert lines["build"].split() == ["build", "state", "step", "rate", "time", "left", "cost"]
    big = lines["big"]
    assert "running (2)" in big
    assert "convert 25 %" in big
    assert "2.5 GB/s" in big
    assert "30 s" in big  # 75 GB at 2.5 GB/s
    assert "0.60" in big  # 60 s at 36 an hour
    assert lines["next"].split()[1] == "queued"
    assert lines["last"].split()[1] == "waiting"
    caption = " ".join(text.split())  # it is folded to the width of the table
    assert "1 waiting, 1 queued, 1 running, 1 built, about " in caption
    assert "left, cost 1.60" in caption
    assert "warning: big: lost: the machine went away; begun again" in text


def test_in_ci_a_terminal_gets_lines(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = terminal
    monkeypatch.setenv("CI", "true")
    with os.fdopen(theirs, "w") as stream:
        view = view_for({}, as_json=False, stream=stream)
        assert type(view) is ChangeLines
        view.changed(tasks()[3])
        assert os.read(ours, 4096).decode().strip() == "done: built in 1 min 40 s"
    os.close(ours)
