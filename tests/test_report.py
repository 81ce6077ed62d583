from __future__ import annotations

import io
import json
from typing import Any

import pytest

from compiler import report
from compiler.report import Bars, Events, Lines, amount, for_stream, seconds, table


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


def test_a_stage_is_one_line_and_a_long_one_some_more(clock: Clock) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.begin("convert")
    for second in range(1, 26):
        clock.now = 100.0 + second
        lines.progress(second * 10**8, 4 * 10**9, "bytes")
    lines.end("2 rank files")
    assert stream.getvalue().splitlines() == [
        "convert: 1 GB of 4 GB, 100 MB/s, 30 s left",
        "convert: 2 GB of 4 GB, 100 MB/s, 20 s left",
        "convert: 2 rank files (25 s)",
    ]


def test_scripts_get_a_json_object_a_line(clock: Clock) -> None:
    stream = io.StringIO()
    events = Events(stream)
    events.begin("push")
    for step in range(1, 9):
        clock.now = 100.0 + step / 4
        events.progress(step, 8, "bytes")
    events.warn("slow")
    events.end("done")
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one["event"] for one in told] == ["begin", "progress", "progress", "warning", "end"]
    assert {one["stage"] for one in told} == {"push"}
    assert told[2] == {"event": "progress", "stage": "push", "done": 8, "total": 8, "unit": "bytes", "seconds": 2.0}
    assert told[4]["note"] == "done"


def test_the_last_step_needs_no_line_of_its_own(clock: Clock) -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.begin("compile")
    clock.now += 50
    lines.progress(12, 12, "packages")
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "kind"),
    [
        (Terminal(), {}, Bars),
        (Terminal(), {"CI": "true"}, Lines),
        (Terminal(), {"TERM": "dumb"}, Lines),
        (io.StringIO(), {}, Lines),
    ],
)
def test_bars_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, environment: dict[str, str], kind: type[Any]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert type(for_stream(stream)) is kind


def test_bars_show_rate_and_time_left_and_make_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    bars = Bars(stream)
    bars.begin("convert")
    bars.progress(10**9, 4 * 10**9, "bytes")
    bars.end("done")
    bars.warn("careful")
    bars.close()
    shown = stream.getvalue()
    assert "1 GB of 4 GB" in shown
    assert "/s" in shown
    assert shown.endswith("warning: careful\n")


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (1000, "bytes", "1 kB"),
        (2_200_000_000, "bytes", "2.2 GB"),
        (7, "packages", "7 packages"),
        (0.25, "packages", "0.25 packages"),
    ],
)
def test_amounts(count: float, unit: str, text: str) -> None:
    assert amount(count, unit) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7620, "2 h 7 min")]
)
def test_seconds(count: float, text: str) -> None:
    assert seconds(count) == text


def test_tables_align_numbers_to_the_right() -> None:
    text = table([("a", "5 B", "x"), ("long", "10 kB", "")], ("name", "size", ""))
    assert text == "name   size\na       5 B  x\nlong  10 kB"
    assert table([]) == ""
