from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import write_random
from compiler.errors import ConflictError, NotFoundError, RefusedError, StoreError, UsageError
from compiler.registry.push import push
from compiler.registry.record import HistoryEntry, Ref, read_ref
from compiler.registry.refs import history, promote, rollback
from compiler.registry.resolve import resolve
from compiler.storage.objects import open_store
from compiler.storage.objects.local import LocalStore
from compiler.storage.objects.types import ANYTHING, Object


@pytest.fixture
def digests(tmp_path: Path, store: str) -> list[str]:
    """Digests of three artifacts with tags 1, 2, 3."""
    return [push(write_random(tmp_path / str(n), n), f"{store}tiny@{n}").digest for n in (1, 2, 3)]


def test_promote_and_roll_back(store: str, digests: list[str]) -> None:
    assert promote(f"{store}tiny@1").before is None
    for tag in (2, 3):
        promote(f"{store}tiny@{tag}")
    again = promote(f"{store}tiny@3")
    assert (again.before, again.after) == (digests[2], digests[2])
    seen = []
    for _ in range(2):
        rollback(f"{store}tiny")
        seen.append(resolve(f"{store}tiny").digest)
    assert seen == [digests[1], digests[0]]
    with pytest.raises(RefusedError, match="has no previous artifact"):
        rollback(f"{store}tiny")
    promote(f"{store}tiny@{digests[2]}")
    rollback(f"{store}tiny@current")
    assert resolve(f"{store}tiny").digest == digests[0]
    lines = history(f"{store}tiny@current")
    assert [entry.why for _, entry in lines[:4]] == ["rollback", "promote", "rollback", "rollback"]
    assert {entry.who for _, entry in lines} == {"somebody"}
    assert len(history(f"{store}tiny")) == len(lines) + 3


def test_promotions_that_are_refused(store: str, digests: list[str]) -> None:
    for uri in (f"{store}tiny", f"{store}tiny@current"):
        with pytest.raises(UsageError):
            promote(uri)
    with pytest.raises(NotFoundError):
        promote(f"{store}tiny@4")
    with pytest.raises(NotFoundError, match="no tag `current`"):
        rollback(f"{store}tiny")
    with pytest.raises(NotFoundError):
        history(f"{store}other")
    found = resolve(f"{store}tiny@1")
    found.store.delete([found.key(found.manifest.files[0])])
    with pytest.raises(NotFoundError, match=r"1 file\(s\) of .* not in the store any more"):
        promote(f"{store}tiny@1")


def test_moves_at_the_same_moment_are_all_in_the_log(tmp_path: Path, local_store: str) -> None:
    uris = [push(write_random(tmp_path / str(n), n), f"{local_store}tiny@{n}").address for n in range(4)]
    threads = [threading.Thread(target=promote, args=(uri,)) for uri in uris]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ref = read_ref(open_store(local_store), "tiny", "current")
    assert ref is not None
    assert sorted(entry.digest for entry in ref.log) == sorted(uri.rpartition("@")[2] for uri in uris)


def test_an_answer_that_was_lost_is_no_conflict(
    tmp_path: Path, local_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repeated write meets its own first one."""
    push(write_random(tmp_path / "a"), f"{local_store}tiny@1")
    real = LocalStore.put

    def put(self: LocalStore, key: str, data: bytes, over: str = ANYTHING) -> Object:
        real(self, key, data, over)
        return real(self, key, data, over)

    monkeypatch.setattr(LocalStore, "put", lambda *args: put(*args) if "refs" in args[1] else real(*args))
    promote(f"{local_store}tiny@1")
    assert len(history(f"{local_store}tiny@current")) == 1


def test_a_tag_that_somebody_else_moved_is_not_rolled_back(
    tmp_path: Path, local_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (1, 2, 3):
        push(write_random(tmp_path / str(n), n), f"{local_store}tiny@{n}")
    promote(f"{local_store}tiny@1")
    promote(f"{local_store}tiny@2")

    def probe(*_: object) -> object:
        monkeypatch.undo()
        monkeypatch.setenv("LMI_COMPILE_USER", "somebody else")
        promote(f"{local_store}tiny@3")
        from compiler.storage.objects.conditions import Conditions

        return Conditions(absent=True, match=True)

    monkeypatch.setattr("compiler.registry.refs.probe", probe)
    with pytest.raises(ConflictError, match="was moved by another process"):
        rollback(f"{local_store}tiny")
    assert resolve(f"{local_store}tiny").digest == resolve(f"{local_store}tiny@3").digest


def test_past() -> None:
    def log(*steps: str) -> tuple[HistoryEntry, ...]:
        return tuple(
            HistoryEntry(step[-1], "plain", "", "", "rollback" if step[0] == "<" else "promote") for step in steps
        )

    def past(*steps: str) -> str:
        return "".join(entry.digest for entry in Ref("t", log(*steps), "").past)

    assert past("a") == "a"
    assert past("a", "b", "a") == "aba"
    assert past("a", "b", "<a") == "a"
    assert past("a", "b", "c", "<b", "d") == "abd"
    assert past("a", "b", "c", "<b", "<a", "c") == "ac"


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError):
        push(write_random(tmp_path / "a"), f"{tmp_path}/store/")
