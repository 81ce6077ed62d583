"""Steps behind the cache: run once, kept as they get done, one way to claim."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from compiler.pipeline.runner import Batch, CachedRunner, Keep, Output, Step
from compiler.storage.cache.stages import StageCache
from tests.builds import ROOT, Heard


@dataclass(frozen=True)
class Inputs:
    value: int


def _runner(folder: Path) -> tuple[CachedRunner, Heard]:
    heard = Heard()
    return CachedRunner(StageCache(folder, warn=heard.warn), heard), heard


def _step(value: int, ran: list[int]) -> Step:
    def run(folder: Path) -> Output:
        ran.append(value)
        (folder / "out").write_text(str(value))
        return Output({"value": value})

    return Step("double", Inputs(value), run, lambda entry: f"made {entry.facts['value']}")


def test_a_step_runs_once_for_its_inputs(tmp_path: Path) -> None:
    runner, heard = _runner(tmp_path)
    ran: list[int] = []
    first, again, other = (runner.run(_step(value, ran)) for value in (1, 1, 2))
    assert ran == [1, 2]
    assert (first.facts, first.folder) == (again.facts, again.folder) != (other.facts, other.folder)
    assert (other.folder / "out").read_text() == "2"
    assert heard.stages == [("double", "made 1"), ("double", "cached"), ("double", "made 2")]
    assert runner.made == {"double": 1}


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    runner, _ = _runner(tmp_path)

    def fail(folder: Path) -> Output:
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        runner.run(Step("double", Inputs(1), fail))
    assert list((tmp_path / "work").iterdir()) == []
    assert runner.run(_step(1, [])).fresh


def _batch(ran: list[str], *, fails_after: int | None = None) -> Batch:
    names = ["a", "b", "c"]

    def run(missing: Sequence[str], out: Path, keep: Keep) -> None:
        for done, name in enumerate(missing):
            if done == fails_after:
                raise RuntimeError("killed")
            ran.append(name)
            (out / f"{name}.txt").write_text(name)
            keep(done, len(missing))

    inputs = {name: Inputs(ord(name)) for name in names}

    def outputs(name: str, out: Path, _ended: bool) -> list[Path]:
        return [path] if (path := out / f"{name}.txt").exists() else []

    return Batch("compile", inputs, outputs, run)


def test_results_of_a_batch_are_kept_as_they_get_done(tmp_path: Path) -> None:
    runner, heard = _runner(tmp_path)
    ran: list[str] = []
    with pytest.raises(RuntimeError, match="killed"):
        runner.run_batch(_batch(ran, fails_after=2))
    assert len(ran) == 2
    entries = runner.run_batch(_batch(ran))
    assert sorted(ran) == list(entries) == ["a", "b", "c"]  # none of them twice
    assert [(entry.folder / f"{name}.txt").read_text() for name, entry in entries.items()] == ["a", "b", "c"]
    assert heard.stages == [("compile", "3 results, 2 of them cached")]


def test_batches_with_the_same_results_wait_for_each_other(tmp_path: Path) -> None:
    """Named in another order: claims are taken in the order of keys all the same."""
    ran: list[str] = []
    batch = _batch(ran)
    backwards = Batch(batch.name, dict(reversed(list(batch.inputs.items()))), batch.outputs, batch.run)
    threads = [threading.Thread(target=_runner(tmp_path)[0].run_batch, args=(one,)) for one in (batch, backwards) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(ran) == ["a", "b", "c"]


def test_results_are_claimed_in_one_place() -> None:
    found = [file.name for file in (ROOT / "compiler").rglob("*.py") for _ in range(file.read_text().count(".claim("))]
    assert found == ["stages.py"]
