"""What tests of builds ask: a report that remembers, and what is on the disk afterwards."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from compiler.storage.files.digest import sha256_file

ROOT = Path(__file__).parents[1]


class Heard:
    """A report that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.stage = ""

    def begin(self, stage: str) -> None:
        self.stage = stage

    def progress(self, done: int, total: int, unit: str) -> None:
        assert 0 <= done <= total, (self.stage, done, total, unit)

    def end(self, note: str) -> None:
        self.stages.append((self.stage, note))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def kill_when_reached(program: str, *arguments: str) -> None:
    """Runs a Python program until it has printed `reached`, then ends it with SIGKILL."""
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "reached\n"
        running.send_signal(signal.SIGKILL)
