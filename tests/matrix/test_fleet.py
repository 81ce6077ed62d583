"""Fleets of real processes: workers and drivers that are killed, two drivers at once, stores that fail, budgets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import StoreError
from compiler.matrix.jobs import read_job
from compiler.matrix.ledger import Ledger, ledger_uri
from compiler.matrix.run import Destination, EngineChoice, build
from compiler.matrix.state import MatrixRow, read_record
from compiler.matrix.status import Jobs
from compiler.matrix.task import FleetLimits
from compiler.report import Silent
from compiler.storage.objects.local import LocalStore
from tests.matrix.programs import Matrix, entry, states

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from compiler.matrix.task import FleetLimits
from compiler.matrix.run import Destination, EngineChoice, build
from compiler.report import Silent
from tests.matrix.programs import entry
output, store, script, *names = sys.argv[1:]
place = Destination(Path(output), store or None, program=(sys.executable, script))
engine = EngineChoice(limits=FleetLimits(parallel=4, stale=2.0))
for row in build([entry(name) for name in names], place, "1", Silent(), engine, jobs=4):
    print(row.name, row.state, row.attempts, flush=True)
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Matrix]:
    made = Matrix(tmp_path)
    yield made
    for held in tmp_path.glob("hold-*"):
        held.unlink()


def driver(made: Matrix, names: list[str], output: str = "artifacts", store: str = "") -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DRIVER, str(made.folder / output), store, str(made.script), *names]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def worker_of(made: Matrix, name: str) -> int:
    """Process of the worker, once its build has begun."""
    until(lambda: made.log.exists() and made.builds(name))
    job = until(lambda: read_job(made.place.output, name))
    return int(job.id.partition("-")[0])


def run(made: Matrix, names: list[str], place: Destination | None = None, **limits: Any) -> list[MatrixRow]:
    engine = EngineChoice(limits=FleetLimits(**{"parallel": 4, "stale": 2.0, **limits}))
    return build([entry(name) for name in names], place or made.place, "1", Silent(), engine, jobs=4)


def test_a_killed_worker_is_begun_again(made: Matrix) -> None:
    (made.folder / "hold-a").touch()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, made, ["a"])
        os.kill(worker_of(made, "a"), signal.SIGKILL)
        (made.folder / "hold-a").unlink()
        (row,) = running.result(60)
    assert (row.state, row.attempts) == ("built", 2)
    assert made.builds("a") == 2
    assert read_job(made.place.output, "a") is None


def test_after_too_many_lost_machines_the_cell_has_failed(made: Matrix) -> None:
    (made.folder / "hold-a").touch()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, made, ["a"], retries={})
        os.kill(worker_of(made, "a"), signal.SIGKILL)
        (row,) = running.result(60)
    assert (row.state, row.failure, row.step) == ("failed", "lost", "machine")
    assert "-9" in row.error


def test_another_driver_resumes_the_jobs_of_a_killed_one(made: Matrix) -> None:
    (made.folder / "hold-a").touch()
    killed = driver(made, ["a", "b"])
    worker = worker_of(made, "a")
    killed.kill()
    killed.communicate()
    os.kill(worker, 0)  # the worker goes on
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, made, ["a", "b"])
        until(lambda: read_record(made.place.output, "b"))
        assert not running.done()
        (made.folder / "hold-a").unlink()
        rows = running.result(60)
    assert states(rows)[0] == "built"
    assert rows[0].attempts == 1
    assert (made.builds("a"), made.builds("b")) == (1, 1)


def test_two_drivers_at_once_build_nothing_twice(made: Matrix) -> None:
    names = [f"c{number}" for number in range(4)]
    store = f"file://{made.folder}/store/"
    both = [driver(made, names, output, store) for output in ("one", "two")]
    printed = [one.communicate(timeout=120)[0].split("\n") for one in both]
    ends = {line.split()[1] for lines in printed for line in lines if line}
    assert ends <= {"built", "current"}
    assert [made.builds(name) for name in names] == [1, 1, 1, 1]


def test_a_claim_of_a_dead_machine_is_replaced(made: Matrix) -> None:
    """Driver and worker are killed, and the files of the driver are gone: only the claim in the store is left."""
    store = f"file://{made.folder}/store/"
    (made.folder / "hold-a").touch()
    killed = driver(made, ["a"], "artifacts", store)
    worker = worker_of(made, "a")
    killed.kill()
    killed.communicate()
    os.killpg(worker, signal.SIGKILL)
    (made.folder / "hold-a").unlink()
    began = time.monotonic()
    (row,) = run(made, ["a"], Destination(made.folder / "elsewhere", store, program=made.program))
    assert row.state == "built"
    assert time.monotonic() - began >= 2.0  # not before it was stale
    assert made.builds("a") == 2


def test_a_store_that_fails_for_a_while_costs_time_only(made: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter(range(5))
    read = LocalStore.read

    def failing(self: LocalStore, key: str) -> tuple[bytes, str]:
        if key.startswith("results/") and next(faults, None) is not None:
            raise StoreError("503", hint="later")
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read", failing)
    (row,) = run(made, ["a"])
    assert (row.state, row.attempts, made.builds("a")) == ("built", 1, 1)
    assert next(faults, None) is None


def test_a_store_that_stays_away_ends_the_driver_and_no_job(made: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Ledger, token: str) -> None:
        raise StoreError("503", hint="later")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "result", failing)
        with pytest.raises(StoreError, match="503"):
            run(made, ["a"], patience=1.0)
    assert states(run(made, ["a"])) == ["current"] or read_record(made.place.output, "a") is not None
    assert made.builds("a") == 1


@pytest.mark.parametrize(
    ("code", "failure", "attempts"), [(10, "store", 2), (137, "memory", 2), (-9, "memory", 2), (4, "refused", 1)]
)
def test_only_failures_that_may_pass_are_begun_again(made: Matrix, code: int, failure: str, attempts: int) -> None:
    (made.folder / "once-a").write_text(str(code))
    (row,) = run(made, ["a"])
    assert row.attempts == attempts
    if attempts == 1:
        assert (row.state, row.failure, row.exit_code) == ("failed", failure, code)
    else:
        assert row.state == "built"


def test_a_cell_ends_at_its_time_limit(made: Matrix) -> None:
    (made.folder / "hold-a").touch()
    engine = EngineChoice(limits=FleetLimits(retries={}), timeout=2.0)
    (row,) = build([entry("a")], made.place, "1", Silent(), engine)
    assert (row.state, row.failure, row.exit_code) == ("failed", "timeout", 124)


def test_a_budget_of_cells_leaves_the_rest_for_the_next_run(made: Matrix) -> None:
    rows = run(made, ["a", "b", "c"], cells=2)
    assert sorted(states(rows)) == ["built", "built", "new"]
    (left,) = [row for row in rows if row.state == "new"]
    assert (left.step, left.exit_code) == ("budget", 5)
    assert sorted(states(run(made, ["a", "b", "c"], cells=2))) == ["built", "current", "current"]


def test_status_and_cancel_while_a_driver_runs(made: Matrix) -> None:
    (made.folder / "hold-a").touch()
    entries, jobs = [entry("a"), entry("b")], Jobs(made.place.output, None, {})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, made, ["a", "b"], parallel=1)
        worker = worker_of(made, "a")
        found = until(lambda: [one for one in jobs.status(entries) if one.facts.get("stage") == "convert"])
        assert [(one.row.name, one.phase) for one in found] == [("a", "running")]
        assert "$ lmi-compile build" in jobs.log("a")
        assert jobs.cancel(entries) == ["a"]
        rows = running.result(60)
    assert states(rows) == ["canceled", "canceled"]
    assert made.builds("b") == 0
    assert not Path(f"/proc/{worker}").exists()
    (made.folder / "hold-a").unlink()
    assert states(run(made, ["a", "b"])) == ["built", "built"]


def test_the_command_line_builds_a_real_model_without_waiting(tmp_path: Path, tiny_checkpoint: Any) -> None:
    model = tiny_checkpoint("llama")
    file = tmp_path / "builds.toml"
    file.write_text(f'[[build]]\nname = "tiny"\nmodel = "{model}"\ntarget = "checkpoint"\n[build.fleet]\ncpus = 1\n')
    places = ["--file", str(file), "--output", str(tmp_path / "artifacts"), "--store", f"file://{tmp_path}/store"]

    def command(*words: str) -> Any:
        program = [sys.executable, "-m", "compiler", "matrix", *words, *places, "--json"]
        ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
        return json.loads(ran.stdout)

    left = command("build", "--no-wait", "--max-parallel", "2")
    until(lambda: command("status")[0]["state"] == "built", 120)
    until(lambda: Path(left["log"]).read_text().endswith("]\n"))
    assert "push" in command("logs", "tiny")["log"]
    (row,) = command("build")
    assert row["state"] == "current"
    uri = ledger_uri(tmp_path / "artifacts", f"file://{tmp_path}/store")
    assert list(Ledger(uri).store.walk("claims/")) == []
