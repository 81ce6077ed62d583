from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compiler.storage.cache.stages import CacheEntry, StageCache, cache_folder, key_of
from compiler.storage.files.digest import describe


@dataclass(frozen=True)
class Inputs:
    version: int
    facts: dict[str, Any]


ONE = Inputs(1, {"tp": 2, "shape": [3, 4]})
LARGE = b"x" * (2 << 20)  # large enough for the memo of digests


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str]) -> StageCache:
    return StageCache(tmp_path / "cache", warn=warnings.append)


def make(cache: StageCache, inputs: Inputs = ONE, content: bytes = LARGE) -> CacheEntry:
    """The entry of stage `convert`, made if it is not there."""
    with cache.claim("convert", inputs) as claim:
        if claim.entry is not None:
            return claim.entry
        (claim.folder / "weights").mkdir()
        (claim.folder / "weights/rank0").write_bytes(content)
        return claim.commit({"ranks": 1})


def test_a_kept_result_is_found_again(cache: StageCache) -> None:
    first = make(cache)
    again = make(cache, content=b"other")
    assert (first.fresh, again.fresh) == (True, False)
    assert (again.folder, again.files, again.facts) == (first.folder, first.files, {"ranks": 1})
    assert (again.folder / "weights/rank0").read_bytes() == LARGE


def test_every_input_is_part_of_the_key() -> None:
    variants = [ONE, Inputs(2, ONE.facts), Inputs(1, {"tp": 4, "shape": [3, 4]}), Inputs(1, {"tp": 2})]
    assert len({key_of("convert", inputs) for inputs in variants} | {key_of("compile", ONE)}) == 5
    assert key_of("convert", ONE) == key_of("convert", Inputs(1, {"shape": [3, 4], "tp": 2}))


def test_files_of_an_entry_are_read_only(cache: StageCache) -> None:
    entry = make(cache)
    modes = [path.stat().st_mode & 0o777 for path in entry.folder.rglob("*") if path.is_file()]
    assert modes == [0o444, 0o444]


def test_leaving_without_a_commit_leaves_nothing(cache: StageCache) -> None:
    with cache.claim("convert", ONE) as claim:
        (claim.folder / "half").write_bytes(b"x")
    assert cache.find("convert", ONE) is None
    assert list(cache.work.iterdir()) == []


def damage_content(entry: CacheEntry) -> None:
    file = entry.folder / "weights/rank0"
    file.chmod(0o644)
    file.write_bytes(b"y" + LARGE[1:])


def damage_size(entry: CacheEntry) -> None:
    file = entry.folder / "weights/rank0"
    file.chmod(0o644)
    file.write_bytes(LARGE[:-1])


def damage_missing(entry: CacheEntry) -> None:
    (entry.folder / "weights/rank0").unlink()


def damage_result(entry: CacheEntry) -> None:
    file = entry.folder / "result.json"
    text = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(text.replace(b'"ranks":1', b'"ranks":2'))


def damage_result_text(entry: CacheEntry) -> None:
    file = entry.folder / "result.json"
    file.chmod(0o644)
    file.write_bytes(b"{")


def damage_result_missing(entry: CacheEntry) -> None:
    (entry.folder / "result.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_content,
        damage_size,
        damage_missing,
        damage_result,
        damage_result_text,
        damage_result_missing,
    ],
)
def test_a_damaged_entry_is_a_warning_and_made_again(cache: StageCache, warnings: list[str], damage: Any) -> None:
    entry = make(cache)
    damage(entry)
    assert cache.find("convert", ONE) is None
    assert len(warnings) == 1
    assert str(entry.folder) in warnings[0]
    again = make(cache)
    assert again.fresh
    assert cache.find("convert", ONE) == CacheEntry(again.folder, again.files, again.facts, fresh=False)


def test_an_entry_under_the_wrong_key_is_not_believed(cache: StageCache, warnings: list[str]) -> None:
    other = Inputs(7, {})
    make(cache)
    cache.folder_of("convert", key_of("convert", ONE)).rename(cache.folder_of("convert", key_of("convert", other)))
    assert cache.find("convert", other) is None
    assert "other inputs" in warnings[0]


def test_an_unchanged_file_is_not_read_again(cache: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    make(cache)

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("compiler.storage.files.digest.sha256_file", refuse)
    fresh = StageCache(cache.root, warn=print)
    assert fresh.find("convert", ONE) is not None
    rehash = StageCache(cache.root, warn=print, rehash=True)
    with pytest.raises(AssertionError, match="was read"):
        rehash.find("convert", ONE)


def test_descriptors_that_are_known_are_taken(cache: StageCache) -> None:
    with cache.claim("convert", ONE) as claim:
        (claim.folder / "a").write_bytes(LARGE)
        known = describe(claim.folder, "a", "application/vnd.safetensors")
        entry = claim.commit(files=[known])
    assert entry.files == (known,)


def test_sweep_removes_only_what_nobody_holds(cache: StageCache) -> None:
    abandoned = cache.work / "convert-0123"
    abandoned.mkdir(parents=True)
    (abandoned / "half").write_bytes(b"x")
    with cache.claim("convert", ONE) as claim:
        cache.sweep()
        assert claim.folder.is_dir()
        claim.commit()
    assert not abandoned.exists()


def test_stored_and_clear(cache: StageCache) -> None:
    make(cache)
    make(cache, Inputs(2, {}), b"small")
    assert [(line.stage, line.files) for line in cache.stored()] == [("convert", 1), ("convert", 1)]
    freed = cache.clear()
    assert freed > len(LARGE)
    assert cache.stored() == []
    assert cache.find("convert", ONE) is None


def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LMI_COMPILE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/lmi-compile")


def build_slowly(root: str, runs: str) -> None:
    cache = StageCache(Path(root), warn=print)
    with cache.claim("convert", ONE) as claim:
        if claim.entry is None:
            with Path(runs).open("a") as log:
                log.write("run\n")
            (claim.folder / "a").write_bytes(LARGE)
            time.sleep(0.3)
            claim.commit()


def test_two_processes_make_one_entry_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=build_slowly, args=(str(tmp_path / "c"), str(runs))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert runs.read_text() == "run\n"


BUILDER = """
import sys, time
from pathlib import Path
from compiler.storage.cache.stages import StageCache
from tests.storage.test_cache import ONE
cache = StageCache(Path(sys.argv[1]), warn=print)
with cache.claim("convert", ONE) as claim:
    (claim.folder / "half").write_bytes(b"x" * 100)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_neither_entry_nor_lock(cache: StageCache, warnings: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(cache.root)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert cache.find("convert", ONE) is None
    entry = make(cache)
    assert [file.path for file in entry.files] == ["weights/rank0"]
    assert warnings == []
