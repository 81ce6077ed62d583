"""The commands on stores, as a script sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compiler.cli import app
from tests.registry.artifacts import content, write


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache-of-the-tests"))


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_life_of_an_artifact(tmp_path: Path) -> None:
    store = f"{tmp_path}/store/"
    one, two = write(tmp_path / "a", 1), write(tmp_path / "b", 2)
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
    store, artifact = f"{tmp_path}/store/", write(tmp_path / "a")
    run("push", artifact, f"{store}tiny@v1")
    arguments = {
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
