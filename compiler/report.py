"""Progress of long commands on stderr: bars on a terminal, plain lines elsewhere, one JSON object per line for scripts.

A stage begins, may report progress in some unit, and ends with a note. Color never carries meaning.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

PLAIN_EVERY = 10.0
"""Seconds between two progress lines of one stage without a terminal."""
EVENTS_EVERY = 1.0
"""Seconds between two events of one stage."""


class Report(Protocol):
    """Receiver of a pipeline's progress. `progress` may be called from any thread, and often. `stage`: the one that
    began last, empty before the first.
    """

    stage: str

    def begin(self, stage: str) -> None: ...
    def progress(self, done: int, total: int, unit: str) -> None: ...
    def end(self, note: str) -> None: ...
    def warn(self, text: str) -> None: ...


class Memory(Protocol):
    """Measurement of the memory of a stage (`machine.MemoryPeak`)."""

    def restart(self) -> None: ...
    def read(self) -> dict[str, int]: ...


def progress_in(report: Report, unit: str) -> Callable[[int, int], None]:
    """`report.progress` for functions that count in one unit: `progress(done, total)`."""
    return lambda done, total: report.progress(done, total, unit)


class Silent:
    """Report that prints nothing, not even warnings: for the Python API."""

    stage = ""

    def begin(self, stage: str) -> None:
        self.stage = stage

    def progress(self, done: int, total: int, unit: str) -> None: ...
    def end(self, note: str) -> None: ...
    def warn(self, text: str) -> None: ...


class Lines:
    """One line at the end of a stage, and one every PLAIN_EVERY seconds while it runs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.stage, self._began, self._last = "", 0.0, 0.0

    def begin(self, stage: str) -> None:
        self.stage, self._began = stage, time.monotonic()
        self._last = self._began

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_EVERY or done >= total:
            return
        self._last = now
        rate = done / (now - self._began)
        left = f", {seconds((total - done) / rate)} left" if rate else ""
        self._say(f"{self.stage}: {_part(done, total, unit)}, {rate_text(rate, unit)}{left}")

    def end(self, note: str) -> None:
        self._say(f"{self.stage}: {note} ({seconds(time.monotonic() - self._began)})")

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def close(self) -> None:
        """Leave the terminal as it was, after an error too."""

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Events(Lines):
    """One JSON object per line: {"event": "begin" | "progress" | "end" | "warning", "stage": ..., ...}.

    progress: done, total, unit, seconds since the stage began; at most one per EVENTS_EVERY seconds, and always the
    last one. end: note, seconds, and the memory that `memory` measured in the stage, beside its ceiling `max_memory`.
    """

    def __init__(self, stream: TextIO, memory: Memory | None = None, max_memory: int = 0) -> None:
        super().__init__(stream)
        self._memory = memory
        self._ceiling = {"max_memory": max_memory} if max_memory else {}

    def begin(self, stage: str) -> None:
        super().begin(stage)
        if self._memory is not None:
            self._memory.restart()
        self._tell("begin")

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._last < EVENTS_EVERY and done < total:
            return
        self._last = now
        self._tell("progress", done=done, total=total, unit=unit, seconds=round(now - self._began, 3))

    def end(self, note: str) -> None:
        memory = {**self._memory.read(), **self._ceiling} if self._memory is not None else {}
        self._tell("end", note=note, seconds=round(time.monotonic() - self._began, 3), **memory)

    def warn(self, text: str) -> None:
        self._tell("warning", text=text)

    def _tell(self, event: str, **facts: Any) -> None:
        self._say(json.dumps({"event": event, "stage": self.stage, **facts}))


class Bars(Lines):
    """A bar with rate and time left while a stage runs, replaced by one line at its end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar: Progress | None = None
        self._shown = 0.0

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._shown < 0.1 and done < total:
            return
        self._shown = now
        if self._bar is None:
            self._bar = _bar(self._stream)
            self._bar.add_task(self.stage, total=total, text="")
            self._bar.start()
        rate = done / max(now - self._began, 1e-9)
        text = f"{_part(done, total, unit)}, {rate_text(rate, unit)}"
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, text=text)

    def end(self, note: str) -> None:
        self._stop()
        super().end(note)

    def warn(self, text: str) -> None:
        self._stop()
        super().warn(text)

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def for_stream(stream: TextIO | None = None) -> Lines | Bars:
    """Bars on a terminal outside CI, lines elsewhere."""
    stream = stream or sys.stderr
    if stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return Bars(stream)
    return Lines(stream)


def amount(count: float, unit: str) -> str:
    """Text of a quantity: `2.2 GB` for bytes (powers of 1000), `7 packages` for everything else."""
    if unit != "bytes":
        return f"{count:.3g} {unit}" if count != int(count) else f"{int(count)} {unit}"
    for name in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or name == "TB":
            break
        count /= 1000
    return f"{count:.0f} {name}" if name == "B" else f"{count:.3g} {name}"


def rate_text(rate: float, unit: str) -> str:
    """Text of a rate: `2.2 GB/s`, `7.5 tokens/s`; below one a second the time of each, `1 min 19 s a result`."""
    if unit == "bytes" or rate >= 1 or rate <= 0:
        return f"{amount(rate, unit)}/s"
    return f"{seconds(1 / rate)} a {unit.removesuffix('s')}"


def _part(done: int, total: int, unit: str) -> str:
    """Text of a fraction: `1.2 GB of 2.2 GB`, `3 of 12 packages`."""
    return f"{amount(done, unit) if unit == 'bytes' else done} of {amount(total, unit)}"


def seconds(count: float) -> str:
    """Text of a duration in seconds: `0.8 s`, `42 s`, `3 min 5 s`, `2 h 7 min`."""
    if count < 10:
        return f"{count:.1f} s"
    whole = round(count)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ()) -> str:
    """Columns of text, two spaces apart; columns of numbers (first character a digit) are right-aligned."""
    lines = [header, *rows] if header else list(rows)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))] if lines else []
    right = [bool(rows) and all(row[i][:1].isdigit() or not row[i] for row in rows) for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in lines
    )


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )
