"""Models below an s3:// prefix, through the real boto3, from a server on this machine."""

from __future__ import annotations

import gc
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest

from benchmarks.testbed import servers
from compiler.errors import CheckpointError, DiskFullError, SourceError, UsageError
from compiler.storage.checkpoints import s3
from compiler.storage.checkpoints.resolve import resolve
from compiler.storage.checkpoints.source import ResolvedSource
from compiler.storage.objects.download import Incoming, download_files
from compiler.storage.objects.s3 import S3Store
from compiler.storage.objects.types import Object
from tests.storage import samples

TENSORS: samples.Tensors = {"embed": ("BF16", (8, 4)), "norm": ("F32", (4,))}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with servers.moto() as found:
        yield found


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty bucket `models`, found through the environment as a user's would be."""
    for name, value in servers.environment(endpoint, tmp_path).items():
        monkeypatch.setenv(name, value)
    found = boto3.resource("s3").Bucket("models")
    found.create()
    found.objects.all().delete()
    yield found
    found.meta.client.close()
    gc.collect()  # a response that was left open warns here, and so fails its own test


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were downloaded whole, in order."""
    names: list[str] = []

    def download(store: Any, files: Sequence[Incoming], **options: Any) -> int:
        names.extend(file.path.name for file in files)
        return download_files(store, files, **options)

    monkeypatch.setattr(s3, "download_files", download)
    return names


def upload(bucket: Any, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), f"{prefix}{path.relative_to(folder)}")


def shapes(source: ResolvedSource) -> samples.Tensors:
    return {name: (t.dtype, t.shape) for name, t in source.checkpoint().tensors.items()}


@pytest.mark.parametrize("prefix", ["llama/7b/", ""])
@pytest.mark.parametrize("shards", [1, 2])
def test_only_what_is_needed_and_only_once(
    tmp_path: Path, bucket: Any, fetched: list[str], prefix: str, shards: int
) -> None:
    data = samples.checkpoint(tmp_path / "m", TENSORS, shards)
    for name in ("tokenizer.json", "modeling.py", "consolidated.safetensors"):
        (tmp_path / "m" / name).write_text(name)
    (tmp_path / "m" / "sub").mkdir()
    (tmp_path / "m" / "sub" / "vocab.json").touch()
    upload(bucket, tmp_path / "m", prefix)
    uri = f"s3://models/{prefix}"
    found = resolve(uri, cache=tmp_path / "cache")
    assert (found.uri, found.repo_id, shapes(found)) == (uri, None, TENSORS)
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(found.names) == sorted(fetched)
    assert "tokenizer.json" in fetched
    assert not {"modeling.py", "consolidated.safetensors", "vocab.json"} & set(fetched)
    for name, tensor in found.checkpoint().tensors.items():
        assert tensor.file is not None
        assert tensor.file.read_bytes()[tensor.offset :][: tensor.nbytes] == data[name]
    fetched.clear()
    assert resolve(uri.rstrip("/"), cache=tmp_path / "cache").folder == found.folder
    assert fetched == []


@pytest.mark.parametrize("shards", [1, 2])
def test_a_plan_needs_headers_only(tmp_path: Path, bucket: Any, fetched: list[str], shards: int) -> None:
    samples.checkpoint(tmp_path / "m", TENSORS, shards)
    upload(bucket, tmp_path / "m", "m/")
    found = resolve("s3://models/m", cache=tmp_path / "cache", files="metadata")
    assert shapes(found) == TENSORS
    assert set(fetched) == {"config.json"} | ({"model.safetensors.index.json"} if shards > 1 else set())
    resolve("s3://models/m", cache=tmp_path / "cache")
    later = resolve("s3://models/m", cache=tmp_path / "cache", files="metadata")
    assert (later.headers, shapes(later)) == (None, TENSORS)
    assert later.listing == found.listing is not None  # known before any weights are here


def test_a_changed_object_is_fetched_anew(tmp_path: Path, bucket: Any) -> None:
    samples.checkpoint(tmp_path / "m", TENSORS)
    upload(bucket, tmp_path / "m", "m/")
    first = resolve("s3://models/m", cache=tmp_path / "cache")
    samples.checkpoint(tmp_path / "m", {"other": ("BF16", (8, 4)), "last": ("F32", (4,))})
    upload(bucket, tmp_path / "m", "m/")
    second = resolve("s3://models/m", cache=tmp_path / "cache")
    assert second.folder != first.folder
    assert second.listing != first.listing
    assert set(shapes(second)) == {"other", "last"}
    assert set(shapes(first)) == set(TENSORS)


def test_a_download_that_ends_early_leaves_no_file(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.checkpoint(tmp_path / "m", TENSORS)
    upload(bucket, tmp_path / "m", "m/")
    real = S3Store.children

    def longer(store: S3Store, folder: str) -> tuple[list[str], list[Object]]:
        folders, objects = real(store, folder)
        sizes = {"model.safetensors": 1}
        return folders, [Object(o.key, o.size + sizes.get(o.key, 0), o.etag, o.modified) for o in objects]

    monkeypatch.setattr(S3Store, "children", longer)
    with pytest.raises(SourceError, match=r"model.safetensors: expected bytes 0 to \d+, the server offers \d+ bytes"):
        resolve("s3://models/m", cache=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").rglob("*.*") if path.suffix != ".part"] == ["config.json"]


def test_problems_of_the_headers_are_listed(tmp_path: Path, bucket: Any) -> None:
    samples.checkpoint(tmp_path / "m", TENSORS, shards=2)
    (tmp_path / "m" / "model-00001-of-00002.safetensors").unlink()
    second = tmp_path / "m" / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-1])
    upload(bucket, tmp_path / "m", "m/")
    with pytest.raises(CheckpointError) as caught:
        resolve("s3://models/m", cache=tmp_path / "cache", files="metadata")
    assert "model-00001-of-00002.safetensors: missing" in caught.value.message
    assert "model-00002-of-00002.safetensors: truncated" in caught.value.message


def test_missing_buckets_and_prefixes(tmp_path: Path, bucket: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no config.json in s3://models/none: found nothing"):
        resolve("s3://models/none", cache=tmp_path)
    with pytest.raises(SourceError, match="NoSuchBucket") as caught:
        resolve("s3://no-such-bucket/m", cache=tmp_path)
    assert "name of the bucket" in caught.value.hint
    with pytest.raises(UsageError, match="names no bucket"):
        resolve("s3://", cache=tmp_path)


def test_no_credentials(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="no credentials") as caught:
        resolve("s3://models/m", cache=tmp_path)
    assert "AWS_PROFILE" in caught.value.hint


def test_no_server(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(SourceError, match="could not be reached") as caught:
        resolve("s3://models/m", cache=tmp_path)
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_no_space(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.checkpoint(tmp_path / "m", TENSORS)
    upload(bucket, tmp_path / "m", "m/")
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="10 are free"):
        resolve("s3://models/m", cache=tmp_path / "cache")
