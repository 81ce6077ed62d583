"""Calibration texts from a hub: which file is taken, and what is said where none can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.store.dataset import is_dataset
from tests import hub

LINE = json.dumps({"text": "words"}) + "\n"
ASK = """
import json, sys
from pathlib import Path
from compiler.errors import LmiCompileError
from compiler.quant.asked import Text
from compiler.stages.samples import looked_at
try:
    text = looked_at(Text(Path(sys.argv[1])))
    answer = {"name": text.file.name, "digest": text.digest, "size": text.size}
except LmiCompileError as error:
    answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps(answer))
"""
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def server() -> Iterator[hub.Hub]:
    with hub.serve() as running:
        yield running


@pytest.fixture
def ask(server: hub.Hub, tmp_path: Path) -> Ask:
    """`looked_at` in a fresh process; what it found, or the error."""

    def question(name: str) -> dict[str, Any]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        answer = subprocess.run(
            [sys.executable, "-c", ASK, name],
            env={**clean, **server.environment(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    return question


def _served(server: hub.Hub, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINE + name)  # of equal files one is fetched
    server.add("owner/news", folder)


def test_the_file_that_is_named_is_taken(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    _served(server, tmp_path / "set", "data/train.jsonl", "data/test.jsonl", "README.md")
    assert ask("owner/news:data/test.jsonl")["name"] == "test.jsonl"
    found = ask("owner/news")
    assert (found["name"], found["size"]) == ("train.jsonl", len(LINE + "data/train.jsonl"))
    assert sorted(server.downloads()) == ["test.jsonl", "train.jsonl"]


def test_what_cannot_be_taken_is_said(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    _served(server, tmp_path / "two", "a.jsonl", "b.jsonl")
    found = ask("owner/news")
    assert found["error"] == "CalibrationError"
    assert "it has a.jsonl, b.jsonl" in found["message"]
    assert "owner/news:FILE" in found["hint"]
    assert "it has a.jsonl" in ask("owner/news:c.jsonl")["message"]
    assert "neither a file nor a data set" in ask("owner/other")["message"]
    server.down = True
    assert "could not be fetched" in ask("owner/news")["message"]
    assert "cannot be read" in ask("no/such/file.txt")["message"]


def test_tables_are_refused(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    _served(server, tmp_path / "tables", "train.parquet")
    found = ask("owner/news")
    assert "it has no .jsonl or .txt" in found["message"]
    assert "save what it has" in found["hint"]


@pytest.mark.parametrize(
    ("name", "there"), [("owner/news", True), ("a/b:c/d.txt", True), ("file.txt", False), ("/a/b", False)]
)
def test_ids_are_told_from_paths(name: str, there: bool) -> None:
    assert is_dataset(name) == there
