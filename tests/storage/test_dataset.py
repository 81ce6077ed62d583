"""Calibration texts from a hub: choice of the file, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.storage.datasets.dataset import is_dataset
from tests import hub
from tests.storage.hub_process import answer

LINE = json.dumps({"text": "words"}) + "\n"
ASK = """
import json, sys
from pathlib import Path
from compiler.errors import LmiCompileError
from compiler.quantization.request import Text
from compiler.calibration.samples import resolve_text
try:
    text = resolve_text(Text(Path(sys.argv[1])))
    answer = {"name": text.name or text.file.name, "digest": text.digest, "size": text.size}
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
    """`resolve_text` in a fresh process; what it found, or the error."""

    return lambda name: answer(server, tmp_path / "home", ASK, name)


def _served(server: hub.Hub, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINE + name)  # of equal files one is fetched
    server.add("owner/news", folder)


def test_the_file_that_is_named_is_taken(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    _served(server, tmp_path / "set", "data/train.jsonl", "data/test.jsonl", "README.md")
    assert ask("owner/news:data/test.jsonl")["name"] == "owner/news:data/test.jsonl"
    found = ask("owner/news")
    assert (found["name"], found["size"]) == ("owner/news:data/train.jsonl", len(LINE + "data/train.jsonl"))
    assert sorted(server.downloads()) == ["test.jsonl", "train.jsonl"]


def test_unusable_data_sets_are_refused_with_a_reason(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
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


def test_the_first_shard_of_a_table_is_taken(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    shards = [f"plain/train-0000{i}-of-00003.parquet" for i in range(3)]
    _served(server, tmp_path / "shards", *shards, "plain/test-00000-of-00001.parquet", "dataset_infos.json")
    found = ask("owner/news")
    assert found["name"] == f"owner/news:{shards[0]}"
    assert found["size"] is None  # compressed: its text may be longer than the file
    _served(server, tmp_path / "shards", "other/train-00000-of-00001.parquet")
    assert "does not say which file" in ask("owner/news")["message"]
    assert ask(f"owner/news:{shards[1]}")["name"] == f"owner/news:{shards[1]}"


def test_unreadable_files_are_replaced_by_the_conversion_of_the_hub(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    _served(server, tmp_path / "main", "news.py", "archive.zip")
    assert "it has no .jsonl, .ndjson" in ask("owner/news")["message"]
    assert "save its text" in ask("owner/news")["hint"]
    folder = tmp_path / "converted"
    for split in ("train", "test"):
        (folder / "default" / split).mkdir(parents=True)
        for i in range(2):
            (folder / "default" / split / f"000{i}.parquet").write_text(f"{split} {i}")
    server.add("owner/news", folder, "refs/convert/parquet")
    assert ask("owner/news")["name"] == "owner/news:default/train/0000.parquet"
    assert ask("owner/news:default/test/0001.parquet")["name"] == "owner/news:default/test/0001.parquet"
    assert "it has default/test/0000.parquet" in ask("owner/news:gone.parquet")["message"]


@pytest.mark.parametrize(
    ("name", "there"), [("owner/news", True), ("a/b:c/d.txt", True), ("file.txt", False), ("/a/b", False)]
)
def test_ids_are_told_from_paths(name: str, there: bool) -> None:
    assert is_dataset(name) == there
