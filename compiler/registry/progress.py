"""Progress of transfers by many threads, in one report."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.report import Report


class Counter:
    """Counter of transferred bytes, of `total`. Any thread may call `add`."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            self._report.progress(self._done, self._total, "bytes")
