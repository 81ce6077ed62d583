"""Behavior of every store; `store` is a folder, moto and rclone in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from compiler.errors import ConflictError, NotFoundError, StoreError, UsageError
from compiler.storage.objects import open_store
from compiler.storage.objects.conditions import Conditions, probe, put_if
from compiler.storage.objects.types import NOTHING

MIB = 1 << 20


def test_an_object_is_what_was_put(store: str) -> None:
    opened = open_store(store)
    assert opened.head("a/b") is None
    opened.put("a/b", b"0123456789")
    found = opened.head("a/b")
    assert found is not None
    assert (found.key, found.size) == ("a/b", 10)
    assert opened.read("a/b") == (b"0123456789", found.etag)
    buffer = bytearray(4)
    opened.read_into("a/b", 3, memoryview(buffer))
    assert buffer == b"3456"
    with pytest.raises(StoreError):
        opened.read_into("a/b", 8, memoryview(buffer))
    with pytest.raises(NotFoundError):
        opened.read("a/c")


def test_objects_are_listed(store: str) -> None:
    opened = open_store(store)
    for key in ("x/1", "x/2", "x/y/3", "z", "xy"):
        opened.put(key, b"-")
    assert [item.key for item in opened.walk("x/")] == ["x/1", "x/2", "x/y/3"]
    assert [item.key for item in opened.walk("")] == ["x/1", "x/2", "x/y/3", "xy", "z"]
    folders, objects = opened.children("x/")
    assert (folders, [item.key for item in objects]) == (["y"], ["x/1", "x/2"])
    opened.delete(["x/1", "x/y/3", "never-there"])
    assert [item.key for item in opened.walk("x")] == ["x/2", "xy"]
    assert open_store(f"{store}nothing/").children("") == ([], [])


def test_an_object_in_parts(store: str) -> None:
    opened = open_store(store)
    parts = [b"a" * (5 * MIB), b"b" * (5 * MIB), b"c" * 7]
    upload = opened.begin("large", 5 * MIB)
    opened.send(upload, 2, parts[1])
    assert [(part.number, part.size) for part in opened.sent(upload) or []] == [(2, 5 * MIB)]
    assert [(one.key, one.id) for one in opened.unfinished("la")] == [("large", upload.id)]
    opened.send(upload, 1, parts[0])
    opened.send(upload, 3, parts[2])
    assert opened.head("large") is None
    opened.finish(upload, opened.sent(upload) or [])
    assert opened.read("large")[0] == b"".join(parts)
    assert list(opened.unfinished("")) == []
    assert opened.sent(upload) is None


def test_an_aborted_upload_is_gone(store: str) -> None:
    opened = open_store(store)
    upload = opened.begin("large", 5 * MIB)
    opened.send(upload, 1, b"a")
    opened.abort(upload)
    opened.abort(upload)
    assert opened.sent(upload) is None
    assert list(opened.unfinished("")) == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("local", Conditions(absent=True, match=True)),
        ("moto", Conditions(absent=True, match=True)),
        ("rclone", Conditions(absent=False, match=False)),
    ],
)
def test_supported_conditional_writes_are_detected(
    kind: str, expected: Conditions, request: pytest.FixtureRequest
) -> None:
    opened = open_store(request.getfixturevalue(f"{kind}_store"))
    conditions = probe(opened, ".probes/")
    assert conditions == expected
    assert bool(conditions.warning) == (kind == "rclone")
    assert list(opened.walk("")) == []


def test_conditions_hold_whether_the_server_knows_them_or_not(store: str) -> None:
    opened = open_store(store)
    conditions = probe(opened, ".probes/")
    first = put_if(opened, conditions, "ref", b"1", NOTHING)
    with pytest.raises(ConflictError):
        put_if(opened, conditions, "ref", b"2", NOTHING)
    assert opened.read("ref") == (b"1", first.etag)
    second = put_if(opened, conditions, "ref", b"two", first.etag)
    with pytest.raises(ConflictError):
        put_if(opened, conditions, "ref", b"3", first.etag)
    assert opened.read("ref") == (b"two", second.etag)


def test_one_of_many_wins(local_store: str) -> None:
    """Not on moto, whose conditional writes are not atomic."""
    opened = open_store(local_store)
    base = opened.put("match", b"0").etag

    def wins(number: int, key: str, over: str) -> bool:
        try:
            opened.put(key, str(number).encode(), over)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for key, over in [*((f"absent{i}", NOTHING) for i in range(5)), ("match", base)]:
            won = list(pool.map(lambda number, key=key, over=over: wins(number, key, over), range(8)))
            assert sum(won) == 1
            assert opened.read(key)[0] == str(won.index(True)).encode()


def test_an_object_appears_while_its_neighbors_vanish(local_store: str) -> None:
    """A folder is removed with its last object and made with its next."""
    opened = open_store(local_store)

    def work(number: int) -> None:
        for _ in range(100):
            opened.put(f"a/b/{number}", b"1")
            opened.delete([f"a/b/{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(opened.walk("")) == []


def test_a_local_store_is_not_left_half_written(tmp_path: Path) -> None:
    opened = open_store(str(tmp_path / "s"))
    opened.put("a/b", b"1")
    with pytest.raises(StoreError, match="a/b/c"):
        opened.put("a/b/c", b"2")  # a/b is a file
    assert list((tmp_path / "s").rglob("*.put")) == []


def test_other_schemes_are_refused() -> None:
    for uri in ("gs://bucket/x", "s3://", "s3:///x"):
        with pytest.raises(UsageError):
            open_store(uri)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, moto_store: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(StoreError, match="could not be reached") as caught:
        open_store(moto_store).head("a")
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_a_wrong_secret(monkeypatch: pytest.MonkeyPatch, rclone_store: str) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StoreError, match="SignatureDoesNotMatch") as caught:
        open_store(rclone_store).read("a")
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint


def test_encryption_and_requester_pays(monkeypatch: pytest.MonkeyPatch, moto_store: str) -> None:
    import boto3

    monkeypatch.setenv("LMI_COMPILE_S3_KMS_KEY", "alias/of-the-tests")
    monkeypatch.setenv("LMI_COMPILE_S3_REQUESTER_PAYS", "1")
    opened = open_store(moto_store)
    opened.put("small", b"1")
    upload = opened.begin("large", 5 * MIB)
    opened.finish(upload, [opened.send(upload, 1, b"2")])
    bucket, _, prefix = moto_store.removeprefix("s3://").partition("/")
    for key in ("small", "large"):
        with closing(boto3.client("s3")) as client:
            found = client.head_object(Bucket=bucket, Key=prefix + key)
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", "alias/of-the-tests")
