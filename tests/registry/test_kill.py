"""Real processes, killed with SIGKILL in mid transfer; the next run resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import content, write_random
from benchmarks.testbed.faults import Proxy, Request, proxy
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.resolve import resolve
from compiler.storage.objects import open_store
from compiler.storage.objects.flow import PART

THREADS = 2
PARTS = 6


@pytest.fixture
def between(rclone_endpoint: str, rclone_store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    del rclone_store  # sets the environment, in which the endpoint is replaced
    with proxy(rclone_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_random(tmp_path / "a", size=PARTS * PART - 5, ranks=1)


def killed(between: Proxy, after: int, moves_data: str, *arguments: object) -> None:
    """Run the command, and kill it at the request after `after` requests that move parts."""
    command = [sys.executable, "-m", "compiler", *map(str, arguments), "--threads", str(THREADS)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = [0]

    def faults(request: Request) -> None:
        seen[0] += is_part(request, moves_data)
        if seen[0] > after:
            os.kill(child.pid, signal.SIGKILL)

    between.faults = faults
    assert child.wait(60) == -signal.SIGKILL
    between.faults = lambda _: None


def is_part(request: Request, moves_data: str) -> bool:
    if moves_data == "up":
        return request.is_part
    return request.method == "GET" and request.path.endswith("rank0.safetensors")


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_push_goes_on(between: Proxy, rclone_store: str, artifact: Path, after: int) -> None:
    killed(between, after, "up", "push", artifact, f"{rclone_store}tiny@1")
    store = open_store(rclone_store)
    assert [item.key for item in store.walk("tiny/") if "manifest" in item.key or "refs" in item.key] == []
    pushed = push(artifact, f"{rclone_store}tiny@1", threads=THREADS)
    sent = sum(is_part(request, "up") for request in between.requests)
    assert PARTS <= sent <= PARTS + THREADS
    assert list(store.unfinished("")) == []
    stored = b"".join(resolve(pushed.address).store.read(item.key)[0] for item in store.walk("") if "rank0" in item.key)
    assert stored == (artifact / "weights/rank0.safetensors").read_bytes()


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_pull_goes_on(between: Proxy, rclone_store: str, artifact: Path, tmp_path: Path, after: int) -> None:
    old = write_random(tmp_path / "old", 7)
    push(old, f"{rclone_store}tiny@old")
    push(artifact, f"{rclone_store}tiny@new")
    pull(f"{rclone_store}tiny@old", tmp_path / "out")
    between.requests.clear()
    killed(between, after, "down", "pull", f"{rclone_store}tiny@new", tmp_path / "out")
    assert content(tmp_path / "out") == content(old)
    pull(f"{rclone_store}tiny@new", tmp_path / "out", threads=THREADS)
    fetched = sum(is_part(request, "down") for request in between.requests)
    assert PARTS <= fetched <= PARTS + THREADS
    assert content(tmp_path / "out") == content(artifact)
    assert list(tmp_path.glob(".out*")) == []
