"""The commands on stores, as a script sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.testbed.artifacts import content, write_random
from compiler.cli import app
from compiler.errors import UsageError


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache-of-the-tests"))


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_life_of_an_artifact(tmp_path: Path) -> None:
    store = f"{tmp_path}/store/"
    one, two = write_random(tmp_path / "a", 1), write_random(tmp_path / "b", 2)
    first = run("push", one, f"{store}tiny@v1")
    second = run("push", two, store, "--layout", "cas")
    assert (first["ref"], second["ref"], second["layout"]) == ("v1", "latest", "cas")
    assert {line["digest"] for line in run("ls", store)} == {first["digest"], second["digest"]}
    run("promote", f"{store}tiny@v1")
    moved = run("promote", f"{store}tiny@latest", "--to", "current")
    assert (moved["before"], moved["after"]) == (first["digest"], second["digest"])
    assert run("pull", f"{store}tiny@current", tmp_path / "out")["fetched"] > 0
    assert content(tmp_path / "out") == content(two)
    assert run("rollback", f"{store}tiny")["after"] == first["digest"]
    assert [line["why"] for line in run("history", f"{store}tiny@current")] == ["rollback", "promote", "promote"]
    assert len(run("diff", f"{store}tiny@v1", two)["changes"]) == 2
    collected = run("gc", store, "--dry-run")
    assert (collected["keys"], collected["dry_run"]) == ([], True)
    assert run("push", one, f"{store}tiny@v1", "--repair")["sent"] == 0


@pytest.mark.parametrize("command", ["ls", "history", "pull", "push", "diff", "promote"])
def test_text_for_people(tmp_path: Path, command: str) -> None:
    store, artifact = f"{tmp_path}/store/", write_random(tmp_path / "a")
    run("push", artifact, f"{store}tiny@v1")
    arguments: dict[str, list[object]] = {
        "ls": [store],
        "history": [f"{store}tiny"],
        "pull": [f"{store}tiny@v1", tmp_path / "out"],
        "push": [artifact, f"{store}tiny@v1"],
        "diff": [artifact, f"{store}tiny@v1"],
        "promote": [f"{store}tiny@v1"],
    }
    done = CliRunner().invoke(app, [command, *map(str, arguments[command])], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.strip()


def test_a_build_that_ends_in_a_store(
    tmp_path: Path,
    session_folder: Path,
    tiny_checkpoint: Callable[[str], Path],
    tiny_artifact: Callable[[str, int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `tiny_artifact` built is in the cache: this one is only put together and pushed."""
    built = tiny_artifact("mixtral", 2)
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(session_folder / "cache"))
    monkeypatch.chdir(tmp_path)
    store = f"file://{tmp_path}/store/"
    model = ["--model", tiny_checkpoint("mixtral"), "--tp", 2, "--dtype", "float32"]
    limits = ["--max-positions", 128, "--max-batch", 4]
    result = run("build", *model, *limits, "--output", f"{store}mixtral@v1", "--cache", f"file://{tmp_path}/shared")
    assert result["pushed"]["address"] == f"{store}mixtral@{result['digest']}"
    run("pull", f"{store}mixtral@v1", tmp_path / "out")
    assert content(tmp_path / "out") == content(built)


def test_an_artifact_with_findings_of_scan_is_not_pushed(tmp_path: Path) -> None:
    artifact = write_random(tmp_path / "a", name="tiny", toolchain={"torch": "2.13.0", "cxx": "/home/someone/g++"})
    done = CliRunner().invoke(app, ["push", str(artifact), f"{tmp_path}/store/"])
    assert done.exit_code != 0
    assert not (tmp_path / "store").exists()


def test_a_build_for_no_store_is_refused_at_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["build", "--model", str(tmp_path), "--output", "s3://bucket/x@a b"])
    assert isinstance(done.exception, UsageError)
