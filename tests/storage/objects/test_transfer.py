"""Uploads and downloads in many small parts, with a store that fails on demand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from compiler.errors import ArtifactError, StoreError
from compiler.storage.files.digest import digest_bytes
from compiler.storage.objects import download, flow
from compiler.storage.objects.download import Incoming, download_files
from compiler.storage.objects.local import LocalStore
from compiler.storage.objects.types import Upload, UploadPart
from compiler.storage.objects.upload import Outgoing, upload_files

SIZE = 1000
DATA = random.Random(0).randbytes(10 * SIZE + 7)
"""Eleven parts."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "part_size_of", lambda _: SIZE)
    monkeypatch.setattr("compiler.storage.objects.upload.part_size_of", lambda _: SIZE)
    monkeypatch.setattr(download, "PART", SIZE)


class Failing(LocalStore):
    """Store that transfers `left` parts, counts them, and fails then."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.left, self.went = 10**9, 0
        self.wrong = 0

    def _one(self) -> None:
        if self.left == 0:
            raise StoreError("no more")
        self.left -= 1
        self.went += 1

    def send(self, upload: Upload, number: int, data: bytes) -> UploadPart:
        self._one()
        return super().send(upload, number, data)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        self._one()
        super().read_into(key, start, buffer)
        if self.wrong:
            self.wrong -= 1
            buffer[0] ^= 1


@pytest.fixture
def store(tmp_path: Path) -> Failing:
    return Failing(tmp_path / "store")


def outgoing(tmp_path: Path, data: bytes = DATA) -> Outgoing:
    path = tmp_path / "file"
    path.write_bytes(data)
    return Outgoing(path, "key", digest_bytes(DATA), len(DATA))


def incoming(tmp_path: Path, data: bytes = DATA) -> Incoming:
    return Incoming("key", tmp_path / "to/file", digest_bytes(data), len(data))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupted_upload_goes_on(tmp_path: Path, store: Failing, threads: int) -> None:
    file = outgoing(tmp_path)
    store.left = 6
    with pytest.raises(StoreError, match="no more"):
        upload_files(store, [file], tmp_path / "journal", threads=threads)
    assert store.head("key") is None
    store.left, store.went = 10**9, 0
    assert upload_files(store, [file], tmp_path / "journal", threads=threads) == len(DATA) - 6 * SIZE
    assert store.went == 5
    assert store.read("key")[0] == DATA
    assert list((tmp_path / "journal").glob("*.jsonl")) == []
    assert list(store.unfinished("")) == []


def test_parts_of_other_bytes_are_sent_again(tmp_path: Path, store: Failing) -> None:
    store.left = 6
    with pytest.raises(StoreError):
        upload_files(store, [outgoing(tmp_path, b"x" + DATA[1:])], tmp_path / "journal", threads=1)
    store.left = 10**9
    upload_files(store, [outgoing(tmp_path)], tmp_path / "journal", threads=1)
    assert store.read("key")[0] == DATA


def test_an_upload_that_the_store_forgot_begins_anew(tmp_path: Path, store: Failing) -> None:
    store.left = 6
    with pytest.raises(StoreError):
        upload_files(store, [outgoing(tmp_path)], tmp_path / "journal", threads=1)
    for upload in list(store.unfinished("")):
        store.abort(upload)
    store.left, store.went = 10**9, 0
    upload_files(store, [outgoing(tmp_path)], tmp_path / "journal", threads=2)
    assert (store.went, store.read("key")[0]) == (11, DATA)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"x" + DATA[1:]])
def test_a_file_that_is_not_what_it_should_be_is_not_published(tmp_path: Path, store: Failing, data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"file: expected 10007 bytes"):
        upload_files(store, [outgoing(tmp_path, data)], tmp_path / "journal", threads=3)
    assert store.head("key") is None


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupted_download_goes_on(tmp_path: Path, store: Failing, threads: int) -> None:
    store.put("key", DATA)
    store.left = 6
    with pytest.raises(StoreError, match="no more"):
        download_files(store, [incoming(tmp_path)], threads=threads)
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["file.part", "file.parts"]
    store.left, store.went = 10**9, 0
    assert download_files(store, [incoming(tmp_path)], threads=threads) == len(DATA) - 6 * SIZE
    assert store.went == 5
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "to").iterdir()] == [("file", DATA)]


def test_parts_that_were_damaged_on_the_disk_are_fetched_again(tmp_path: Path, store: Failing) -> None:
    store.put("key", DATA)
    store.left = 6
    with pytest.raises(StoreError):
        download_files(store, [incoming(tmp_path)], threads=1)
    with (tmp_path / "to/file.part").open("r+b") as part:
        part.seek(2 * SIZE)
        part.write(b"damage")
    store.left = 10**9
    download_files(store, [incoming(tmp_path)], threads=2)
    assert (tmp_path / "to/file").read_bytes() == DATA


def test_a_list_of_parts_that_was_cut_short(tmp_path: Path, store: Failing) -> None:
    store.put("key", DATA)
    store.left = 6
    with pytest.raises(StoreError):
        download_files(store, [incoming(tmp_path)], threads=1)
    log = tmp_path / "to/file.parts"
    log.write_bytes(log.read_bytes()[:-2])  # by a kill: the last part counts as not there
    store.left, store.went = 10**9, 0
    download_files(store, [incoming(tmp_path)], threads=1)
    assert (store.went, (tmp_path / "to/file").read_bytes()) == (6, DATA)


def test_parts_of_another_file_are_not_used(tmp_path: Path, store: Failing) -> None:
    store.put("key", b"x" + DATA[1:])
    store.left = 6
    with pytest.raises(StoreError):
        download_files(store, [incoming(tmp_path, b"x" + DATA[1:])], threads=1)
    store.put("key", DATA)
    store.left = 10**9
    download_files(store, [incoming(tmp_path)], threads=1)
    assert (tmp_path / "to/file").read_bytes() == DATA


def test_bytes_that_were_wrong_once_are_fetched_again(tmp_path: Path, store: Failing) -> None:
    store.put("key", DATA)
    store.wrong = 1
    moved: list[int] = []
    download_files(store, [incoming(tmp_path)], threads=2, progress=moved.append)
    assert (tmp_path / "to/file").read_bytes() == DATA
    assert sum(moved) == len(DATA)


def test_bytes_that_are_wrong_in_the_store_are_not_accepted(tmp_path: Path, store: Failing) -> None:
    store.put("key", b"x" + DATA[1:])
    with pytest.raises(ArtifactError, match="1 damaged file") as caught:
        download_files(store, [incoming(tmp_path)], threads=2)
    assert "--repair" in caught.value.hint
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"x", DATA[:SIZE]])
def test_files_of_one_part(tmp_path: Path, store: Failing, data: bytes) -> None:
    store.put("key", data)
    file = incoming(tmp_path, data)
    assert download_files(store, [file], threads=2) == len(data)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "to").iterdir()] == [("file", data)]
    assert (tmp_path / "to/file").stat().st_mode & 0o777 == 0o444
