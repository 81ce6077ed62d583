"""Ctrl-C in the middle of a build: real processes, and a compiler that takes its time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SLOW = """
import signal
import sys
from compiler.cli import main
from compiler.targets.inductor.target import SegmentCompiler
from tests.stand_in import StandIn

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
delay = float(sys.argv.pop(1))
SegmentCompiler.toolchain = lambda _self: StandIn("inductor", delay=delay)
main()
"""


@pytest.fixture
def start(tmp_path: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[..., subprocess.Popen[str]]:
    """Starts a build whose packages take `delay` seconds each."""
    words = ["build", "--model", str(tiny_checkpoint("llama")), "--until", "package", "--output", str(tmp_path / "out")]

    def start(delay: float, *more: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "LMI_COMPILE_CACHE": str(tmp_path / "cache")}
        return subprocess.Popen(
            [sys.executable, "-c", SLOW, str(delay), *words, *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
        )  # fmt: skip

    return start


def test_a_stopped_build_says_what_is_kept_and_the_same_command_goes_on_there(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    running = start(0.5, "--json")
    assert running.stderr is not None
    for line in running.stderr:
        event = json.loads(line)
        if event["stage"] == "compile" and event["event"] == "progress":
            break
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=60)
    error = json.loads(rest.splitlines()[-1])["error"]
    assert (running.returncode, error["exit_code"], error["type"]) == (130, 130, "StoppedError")
    assert error["message"] == "stopped by Ctrl-C in stage `compile`"
    assert f"kept in {tmp_path / 'cache'}" in error["hint"]
    assert not (tmp_path / "out").exists()
    again = start(0.0)
    _, lines = again.communicate(timeout=120)
    assert again.returncode == 0
    assert "convert: cached" in lines
    compiled = next(line for line in lines.splitlines() if line.startswith("compile: "))
    assert int(compiled.split(", ")[1].split()[0]) >= 1  # `12 results, 3 of them cached`


def test_without_json_one_error_and_no_traceback(start: Callable[..., subprocess.Popen[str]]) -> None:
    running = start(0.5)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("convert: "):
            break
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "error: stopped by Ctrl-C in stage `" in rest
    assert "Traceback" not in rest
