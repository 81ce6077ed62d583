"""A stage cache shared through a store."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from compiler.storage.cache.stages import CacheEntry, StageCache, key_of, open_cache
from compiler.storage.objects import open_store
from tests.stores import moto_endpoint, moto_store, rclone_endpoint, rclone_store

__all__ = ["moto_endpoint", "moto_store", "rclone_endpoint", "rclone_store"]


@dataclass(frozen=True)
class Inputs:
    version: int


CONTENT = b"weights" * 1000


@pytest.fixture(params=["local", "moto", "rclone"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return f"{tmp_path}/shared/"
    uri: str = request.getfixturevalue(f"{request.param}_store")
    return uri


class Machine:
    """A machine with its own cache in front of the shared one. `warnings`: those it gave; `made`: entries it made."""

    def __init__(self, root: Path, shared: str) -> None:
        self.warnings: list[str] = []
        self.made = 0
        self.cache: StageCache = open_cache(root, shared, warn=self.warnings.append)

    def make(self, inputs: Inputs = Inputs(1), content: bytes = CONTENT) -> CacheEntry:
        with self.cache.claim("convert", inputs) as claim:
            if claim.entry is not None:
                return claim.entry
            self.made += 1
            (claim.folder / "weights").mkdir()
            (claim.folder / "weights/rank0").write_bytes(content)
            (claim.folder / "same").write_bytes(content)
            return claim.commit({"ranks": 1})


def test_an_entry_of_one_machine_is_found_by_the_other(tmp_path: Path, shared: str) -> None:
    one, two = Machine(tmp_path / "1", shared), Machine(tmp_path / "2", shared)
    first, second = one.make(), two.make()
    assert (one.made, two.made) == (1, 0)
    assert (first.fresh, second.fresh) == (True, False)
    assert (second.files, second.facts) == (first.files, first.facts)
    assert second.folder == tmp_path / "2" / "stages" / "convert" / key_of("convert", Inputs(1))
    assert (second.folder / "weights/rank0").read_bytes() == CONTENT
    assert two.make().folder == second.folder
    assert two.cache.find("convert", Inputs(1)) is not None
    assert one.warnings == two.warnings == []
    blobs = [item.key for item in open_store(shared).walk(".cache/blobs/")]
    assert len(blobs) == 1  # two equal files


def damage_blob(shared: str) -> None:
    store = open_store(shared)
    store.put(next(store.walk(".cache/blobs/")).key, bytes(len(CONTENT)))


def damage_missing(shared: str) -> None:
    store = open_store(shared)
    store.delete([next(store.walk(".cache/blobs/")).key])


def damage_text(shared: str) -> None:
    store = open_store(shared)
    key = next(store.walk(".cache/stages/")).key
    store.put(key, store.read(key)[0].replace(b'"ranks":1', b'"ranks":2'))


def damage_escape(shared: str) -> None:
    import json

    from compiler.storage.files.digest import canonical_json, digest_json

    store = open_store(shared)
    key = next(store.walk(".cache/stages/")).key
    result = json.loads(store.read(key)[0])["result"]
    result["files"][0]["path"] = "../../../escaped"
    store.put(key, canonical_json({"result": result, "digest": digest_json(result)}))


@pytest.mark.parametrize("damage", [damage_blob, damage_missing, damage_text, damage_escape])
def test_a_damaged_entry_is_a_warning_and_made_again(tmp_path: Path, damage: object) -> None:
    shared = f"{tmp_path}/shared/"
    Machine(tmp_path / "1", shared).make()
    damage(shared)  # type: ignore[operator]  # one of the functions above
    two = Machine(tmp_path / "2", shared)
    entry = two.make()
    assert (two.made, entry.fresh, len(two.warnings)) == (1, True, 1)
    assert (entry.folder / "weights/rank0").read_bytes() == CONTENT
    assert list(tmp_path.rglob("escaped")) == []


def test_an_entry_of_other_inputs_is_not_believed(tmp_path: Path) -> None:
    shared = f"{tmp_path}/shared/"
    Machine(tmp_path / "1", shared).make()
    store = open_store(shared)
    text, _ = store.read(next(store.walk(".cache/stages/")).key)
    store.put(f".cache/stages/convert/{key_of('convert', Inputs(2))}.json", text)
    two = Machine(tmp_path / "2", shared)
    two.make(Inputs(2))
    assert two.made == 1
    assert "other inputs" in two.warnings[0]


def test_without_the_store_a_build_goes_on(tmp_path: Path, moto_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    machine = Machine(tmp_path / "1", moto_store)
    assert machine.make().fresh
    assert len(machine.warnings) == 2
    assert "could not be reached" in machine.warnings[0]


def test_many_machines_at_once(tmp_path: Path) -> None:
    shared = f"{tmp_path}/shared/"
    machines = [Machine(tmp_path / str(number), shared) for number in range(6)]
    threads = [threading.Thread(target=machine.make) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for machine in machines:
        found = machine.cache.find("convert", Inputs(1))
        assert found is not None
        assert (found.folder / "same").read_bytes() == CONTENT
        assert machine.warnings == []
