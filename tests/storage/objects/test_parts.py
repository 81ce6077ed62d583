"""Detection of parts damaged in transit, with servers that check nothing themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.testbed.faults import Proxy, Request
from compiler.errors import StoreError
from compiler.storage.files.digest import digest_bytes
from compiler.storage.objects import open_store
from compiler.storage.objects.upload import Outgoing, upload_files

PARTS = [b"a" * 100_000, b"b" * 100_000, b"c" * 7]


def parts_sent(between: Proxy, uri: str) -> list[int]:
    """Send PARTS as one object and read it back; numbers of the parts that went to the server."""
    store = open_store(uri)
    upload = store.begin("large", len(PARTS[0]))
    store.finish(upload, [store.send(upload, number, data) for number, data in enumerate(PARTS, 1)])
    assert store.read("large")[0] == b"".join(PARTS)
    return [int(one.query.partition("partNumber=")[2].partition("&")[0]) for one in between.requests if one.is_part]


def test_a_part_goes_up_once(between: Proxy, rclone_store: str) -> None:
    assert parts_sent(between, rclone_store) == [1, 2, 3]


def test_a_part_that_arrived_with_other_bytes_is_never_published(
    between: Proxy, rclone_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone cannot replace a part: the upload is aborted, and the next run sends it anew."""
    monkeypatch.setattr("compiler.storage.objects.upload.part_size_of", lambda _: len(PARTS[0]))
    (tmp_path / "file").write_bytes(b"".join(PARTS))
    file = Outgoing(tmp_path / "file", "large", digest_bytes(b"".join(PARTS)), sum(map(len, PARTS)))

    def second(request: Request) -> str | None:
        broken = between.broken["wrong-up"]
        return "wrong-up" if request.is_part and "partNumber=2" in request.query and not broken else None

    between.faults = second
    store = open_store(rclone_store)
    with pytest.raises(StoreError):
        upload_files(store, [file], tmp_path / "journal", threads=1)
    assert store.head("large") is None
    assert upload_files(store, [file], tmp_path / "journal", threads=1) == file.size
    assert store.read("large")[0] == b"".join(PARTS)


def test_a_server_whose_etags_are_no_md5_checks_each_part_itself(between: Proxy, rclone_store: str) -> None:
    between.md5_etags = False
    assert parts_sent(between, rclone_store) == [1, 1, 2, 3]
    between.faults = lambda request: "wrong-up" if request.is_part else None
    with pytest.raises(StoreError):
        parts_sent(between, rclone_store)
