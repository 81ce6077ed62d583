"""Fixtures: stores for tests, in a folder, on moto, on rclone; each test gets an empty one. For conftest.py files."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import botocore.loaders
import pytest

from benchmarks.testbed import servers
from benchmarks.testbed.faults import Proxy, proxy

__all__ = [
    "between", "local_store", "moto_endpoint", "moto_store", "own_cache", "rclone_endpoint", "rclone_store", "store",
]  # fmt: skip


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    with servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache-of-the-tests"))
    monkeypatch.setenv("LMI_COMPILE_USER", "somebody")


@pytest.fixture
def moto_store(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URI of an empty store on a server that honours conditions."""
    _use(moto_endpoint, monkeypatch, tmp_path)
    with closing(boto3.client("s3")) as client:
        client.create_bucket(Bucket=servers.BUCKET)
    return f"s3://{servers.BUCKET}/{secrets.token_hex(4)}/"


@pytest.fixture
def rclone_store(rclone_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URI of an empty store on a server that checks signatures and MD5, and ignores conditions."""
    _use(rclone_endpoint, monkeypatch, tmp_path)
    return f"s3://{servers.BUCKET}/{secrets.token_hex(4)}/"


@pytest.fixture
def between(rclone_endpoint: str, rclone_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands between clients and `rclone_store`."""
    del rclone_store  # sets the environment, in which the endpoint is replaced
    monkeypatch.setattr("time.sleep", lambda _: None)  # of retries
    with proxy(rclone_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def local_store(tmp_path: Path) -> str:
    return f"{tmp_path}/store/"


@pytest.fixture(params=["local", "moto", "rclone"])
def store(request: pytest.FixtureRequest) -> str:
    uri: str = request.getfixturevalue(f"{request.param}_store")
    return uri


_loader = functools.cache(botocore.loaders.create_loader)
"""Descriptions of AWS services, read once instead of once a client."""


def _use(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in servers.environment(endpoint, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("botocore.loaders.create_loader", _loader)
