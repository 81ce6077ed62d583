from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import content, write_random
from compiler.errors import ArtifactError, UsageError
from compiler.registry import lease as leases
from compiler.registry.gc import Collected, collect
from compiler.registry.layout import LAYOUTS, Layout
from compiler.registry.lease import Lease
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.refs import promote, rollback
from compiler.registry.resolve import resolve
from compiler.storage.objects import open_store
from compiler.storage.objects.local import LocalStore
from tests.builds import tree

WEEK = 7 * 86400.0


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE", 0.3)
    monkeypatch.setattr("compiler.registry.gc.SETTLE", 60.0)


def age(store: str, days: float = 30) -> None:
    """Set the age of all files of a local store."""
    then = time.time() - days * 86400
    for path in Path(store).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def names(found: Collected) -> list[str]:
    return sorted({key.rpartition("/")[2] for key in found.keys})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unreferenced_objects_are_removed_after_the_grace_period(
    tmp_path: Path, local_store: str, layout: Layout
) -> None:
    for n in (1, 2):
        push(write_random(tmp_path / str(n), n), local_store, layout=layout)  # each moves `latest`
    promote(f"{local_store}tiny@latest")
    for n in (3, 4):
        push(write_random(tmp_path / str(n), n), local_store, layout=layout)
    assert collect(local_store).keys == ()
    age(local_store)
    assert collect(local_store, keep=4).keys == ()
    before = tree(Path(local_store))
    planned = collect(local_store, keep=2, dry_run=True)
    assert planned.nbytes > 800
    assert tree(Path(local_store)) == before
    done = collect(local_store, keep=2)
    assert (sorted(done.keys), done.nbytes) == (sorted(planned.keys), planned.nbytes)
    assert [key.endswith("json") for key in done.keys].index(False) >= 1  # the manifest goes first
    for n in (2, 3, 4):  # 2 is `current`, 3 and 4 what `latest` means and meant
        found = f"{local_store}tiny@current" if n == 2 else resolve(f"{local_store}tiny@latest").address
        pull(found, tmp_path / f"out{n}")
    rollback(f"{local_store}tiny@latest")
    pull(f"{local_store}tiny@latest", tmp_path / "back")
    assert content(tmp_path / "back") == content(tmp_path / "3")
    assert collect(local_store, keep=2).keys == ()


def test_only_objects_of_ours_are_touched(tmp_path: Path, local_store: str) -> None:
    write_random(Path(local_store) / "built-here")
    push(write_random(tmp_path / "a"), f"{local_store}tiny@1")
    open_store(local_store).put(f"tiny/{'0' * 64}/weights/half", b"of a push that was given up")
    open_store(local_store).put("notes/x.txt", b"mine")
    upload = open_store(local_store).begin(f"tiny/{'0' * 64}/weights/rank0", 1)
    age(local_store)
    found = collect(local_store)
    assert found.keys == (f"tiny/{'0' * 64}/weights/half",)
    assert found.uploads == (upload.key,)
    assert content(Path(local_store) / "built-here") == content(write_random(tmp_path / "same"))
    assert open_store(local_store).head("notes/x.txt") is not None


def test_objects_of_a_running_push_stay(tmp_path: Path, local_store: str) -> None:
    artifact = write_random(tmp_path / "a")
    push(artifact, f"{local_store}tiny@1", layout="cas")
    Path(local_store, "tiny/refs/1.json").unlink()
    age(local_store)
    store = open_store(local_store)
    found = resolve(
        f"{local_store}tiny@{next(item.key for item in store.walk('tiny/manifests/'))[-69:-5].join(['sha256:', ''])}"
    )
    keys = [found.key(file) for file in found.manifest.files]
    with Lease(store, keys) as held:
        gone = collect(local_store)
        assert gone.keys == (found.manifest_key,)
        assert sorted(held.settled(keys)) == sorted(keys)
    assert sorted(collect(local_store).keys) == sorted(keys)


def test_a_lease_that_gc_did_not_see_waits_until_gc_is_over(tmp_path: Path, local_store: str) -> None:
    store = open_store(local_store)
    store.put("blobs/sha256/" + "0" * 64, b"old")
    age(local_store)
    with Lease(store, ["blobs/sha256/" + "0" * 64]) as held:
        timer = threading.Timer(0.15, store.delete, [["blobs/sha256/" + "0" * 64]])  # read the leases just before
        timer.start()
        assert held.look(["blobs/sha256/" + "0" * 64]) != {}
        assert held.settled(["blobs/sha256/" + "0" * 64]) == {}
        timer.join()


def test_pushes_while_everything_is_swept(tmp_path: Path, local_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push sends objects again that gc removes under it: published artifacts are complete."""
    artifact = write_random(tmp_path / "a")
    push(artifact, f"{local_store}tiny@1", layout="cas")
    Path(local_store, "tiny/refs/1.json").unlink()
    age(local_store)
    real = LocalStore.put

    def put(self: LocalStore, key: str, *rest: object) -> object:
        done = real(self, key, *rest)  # type: ignore[arg-type]
        if key.startswith(".leases/"):  # gc had looked before this lease was there
            self.delete([item.key for item in self.walk("blobs/")][:3])
        return done

    monkeypatch.setattr(LocalStore, "put", put)
    push(artifact, f"{local_store}tiny@2", layout="cas")
    pull(f"{local_store}tiny@2", tmp_path / "out")
    assert content(tmp_path / "out") == content(artifact)


def test_nothing_is_removed_where_something_alive_cannot_be_read(tmp_path: Path, local_store: str) -> None:
    push(write_random(tmp_path / "a"), f"{local_store}tiny@1")
    store = open_store(local_store)
    store.put(f"tiny/{'0' * 64}/half", b"")
    store.put("tiny/refs/1.json", b"{")
    age(local_store)
    with pytest.raises(ArtifactError):
        collect(local_store)
    assert store.head(f"tiny/{'0' * 64}/half") is not None


def test_arguments_that_are_refused(local_store: str) -> None:
    for options in ({"grace": 60.0}, {"keep": 1}):
        with pytest.raises(UsageError):
            collect(local_store, **options)
    with pytest.raises(UsageError, match="is an artifact"):
        collect(f"{local_store}tiny")


def test_a_store_on_a_server(tmp_path: Path, moto_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        push(write_random(tmp_path / str(n), n), moto_store)
    clock = time.time
    monkeypatch.setattr("compiler.registry.gc._now", lambda _: clock() + 2 * WEEK)
    found = collect(moto_store, keep=2)
    assert len([key for key in found.keys if key.endswith("manifest.json")]) == 2
    pull(f"{moto_store}tiny@latest", tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "3")
