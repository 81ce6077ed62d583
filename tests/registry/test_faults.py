"""Random faults between client and server: right bytes or an LmiCompileError, nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import content, write_random
from benchmarks.testbed.faults import FAULTS, Proxy, Request
from compiler.errors import LmiCompileError
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.refs import promote
from compiler.storage.objects import s3


def there_and_back(artifact: Path, uri: str, out: Path) -> None:
    push(artifact, uri)
    pull(uri, out)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_now_and_then_is_survived(between: Proxy, rclone_store: str, tmp_path: Path, fault: str) -> None:
    artifact = write_random(tmp_path / "a", size=3000)
    between.faults = lambda request: fault if request.number % 4 == 3 else None
    push(artifact, f"{rclone_store}tiny@1")
    promote(f"{rclone_store}tiny@1")
    pull(f"{rclone_store}tiny", tmp_path / "out")
    assert content(tmp_path / "out") == content(artifact)
    assert between.broken[fault] > 2


def test_a_permanent_fault_is_an_error_and_nothing_is_lost(
    between: Proxy, rclone_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_BODY_TRIES", 2)
    artifact = write_random(tmp_path / "a", 1)
    push(artifact, f"{rclone_store}tiny@1")
    pull(f"{rclone_store}tiny@1", tmp_path / "out")
    for seed, fault in enumerate(("slow-down", "reset", "truncated", "wrong-down", "wrong-up"), 2):
        other = write_random(tmp_path / fault, seed)
        between.faults = lambda request, fault=fault: fault if "weights" in request.path else None  # type: ignore[misc]
        with pytest.raises(LmiCompileError) as caught:
            there_and_back(other, f"{rclone_store}tiny@{seed}", tmp_path / "out")
        assert caught.value.hint, fault
        assert content(tmp_path / "out") == content(artifact)


def test_many_faults(between: Proxy, rclone_store: str, tmp_path: Path) -> None:
    """A small version of benchmarks/faults.py."""
    source = random.Random(5)

    def faults(request: Request) -> str | None:
        return source.choice(FAULTS) if source.random() < 0.25 else None

    between.faults = faults
    whole = 0
    for round_ in range(6):
        artifact = write_random(tmp_path / f"a{round_}", round_, size=2000)
        try:
            push(artifact, f"{rclone_store}tiny@{round_}")
            pull(f"{rclone_store}tiny@{round_}", tmp_path / "out")
        except LmiCompileError:
            continue
        whole += 1
        assert content(tmp_path / "out") == content(artifact)
    assert whole > 0
    assert between.broken.total() > 30
