"""Engine `ray` on a real cluster: two workers on this machine, in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed.ray_head import SlowStartError, ray_head
from compiler.matrix.jobs import read_job
from tests.matrix.programs import Matrix
from tests.matrix.test_fleet import ROOT, until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]

DRIVER = """
import json, sys
from dataclasses import replace
from pathlib import Path
from compiler.matrix.task import FleetLimits
from compiler.matrix.run import Destination, EngineChoice, build
from compiler.report import Silent
from tests.matrix.programs import entry
output, store, script, address, fleet, *names = sys.argv[1:]
place = Destination(Path(output), store, program=(sys.executable, script))
engine = EngineChoice("ray", FleetLimits(stale=10.0), {"ray": {"address": address}})
fleet = {"command": [sys.executable, script], **json.loads(fleet)}
entries = [replace(entry(name), fleet=tuple(fleet.items())) for name in names]
for row in build(entries, place, "1", Silent(), engine, jobs=4):
    print(json.dumps(row.to_json()), flush=True)
"""


_DRIVERS: list[subprocess.Popen[str]] = []
"""Drivers of the test that runs."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a head with two cores and one `sm_90`. Skips where this machine is too busy for Ray's start."""
    try:
        with ray_head(2, {"sm_90": 1}) as found:
            yield found
    except SlowStartError:
        pytest.skip("Ray's head did not start within its 30 seconds, three times")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Matrix]:
    made = Matrix(tmp_path)
    yield made
    for held in tmp_path.glob("hold-*"):
        held.unlink()
    while _DRIVERS:
        ended = _DRIVERS.pop()
        ended.kill()
        ended.wait()
        if ended.stdout is not None:
            ended.stdout.close()


def driver(made: Matrix, address: str, names: list[str], **fleet: Any) -> subprocess.Popen[str]:
    store = f"file://{made.folder}/store/"
    words = [str(made.place.output), store, str(made.script), address, json.dumps(fleet), *names]
    started = subprocess.Popen([sys.executable, "-c", DRIVER, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    _DRIVERS.append(started)
    return started


def rows(running: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = running.communicate(timeout=240)
    assert running.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def processes(made: Matrix, word: str) -> list[int]:
    """Processes of the stand-in program whose command line has `word`."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(made.script) in words and word in words and "guard.py" not in words[3]:
            found.append(int(line.parent.name))
    return found


def test_a_killed_worker_is_begun_again_and_others_go_on(made: Matrix, address: str) -> None:
    (made.folder / "hold-a").touch()
    running = driver(made, address, ["a", "b"])
    until(lambda: made.log.exists() and made.builds("a"), 120)
    job = until(lambda: read_job(made.place.output, "a"))
    (worker,) = until(lambda: processes(made, job.token))
    os.kill(worker, signal.SIGKILL)
    until(lambda: made.builds("a") == 2, 120)
    (made.folder / "hold-a").unlink()
    ends = rows(running)
    assert [(row["name"], row["state"]) for row in ends] == [("a", "built"), ("b", "built")]
    assert [made.builds(name) for name in "ab"] == [2, 1]


def test_what_no_machine_has_is_refused_with_numbers(made: Matrix, address: str) -> None:
    (row,) = rows(driver(made, address, ["a"], custom={"sm_90": 1, "sm_100": 1}))
    assert (row["state"], row["failure"]) == ("refused", "refused")
    assert "sm_100: needs 1, the most of a machine is 0" in row["error"]
    assert made.builds("a") == 0


def test_a_killed_driver_is_resumed_by_another_one(made: Matrix, address: str) -> None:
    (made.folder / "hold-a").touch()
    killed = driver(made, address, ["a"], custom={"sm_90": 1})
    until(lambda: made.log.exists() and made.builds("a"), 120)
    killed.kill()
    killed.communicate()
    running = driver(made, address, ["a"], custom={"sm_90": 1})
    time.sleep(1)
    (made.folder / "hold-a").unlink()
    (row,) = rows(running)
    assert (row["state"], row["attempts"]) == ("built", 1)
    assert made.builds("a") == 1
