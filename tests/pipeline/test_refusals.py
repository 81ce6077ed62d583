"""Bad input, full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from compiler.errors import (
    CheckpointError,
    DiskFullError,
    ParallelError,
    TokenizerError,
    UsageError,
)
from compiler.pipeline.build import build
from compiler.pipeline.devices import with_largest_tp
from compiler.pipeline.request import BuildRequest
from tests.builds import copied, leftovers
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_truncated_source_is_refused_before_anything_is_written(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    broken = copied(Path(request_for().model), tmp_path / "broken")
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    with pytest.raises(CheckpointError, match="truncated"):
        build(request_for(model=str(broken)), toolchain=StandIn())
    assert not (tmp_path / "artifact").exists()
    assert not (tmp_path / "cache").exists()


def test_a_tp_that_does_not_fit_names_those_that_do(request_for: Callable[..., BuildRequest]) -> None:
    with pytest.raises(ParallelError, match="tp 3") as caught:
        build(request_for(tp=3), toolchain=StandIn())
    assert "1, 2, 4, 8" in caught.value.hint


@pytest.mark.parametrize(("instance_type", "tp"), [("ml.g5.xlarge", 1), ("ml.g5.12xlarge", 4), ("ml.p4d.24xlarge", 8)])
def test_tp_max_is_the_most_that_fits_on_the_devices(
    request_for: Callable[..., BuildRequest], instance_type: str, tp: int
) -> None:
    assert with_largest_tp(request_for(), instance_type).ask.tp == tp


@pytest.mark.parametrize(("field", "value"), [("march", "x86-64-v9"), ("until", "lunch")])
def test_unknown_words_are_usage_errors(
    request_for: Callable[..., BuildRequest], tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(UsageError, match=r"x86-64-v9|lunch"):
        build(request_for(**{field: value}), toolchain=StandIn())
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_folder_without_one_is_refused(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no tokenizer in"):
        build(request_for(tokenizer=tmp_path), toolchain=StandIn())


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_packaging_leaves_nothing(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("compiler.artifact.assemble.link_read_only", lambda *_: False)
        patch.setattr(os, "copy_file_range", full)
        with pytest.raises(DiskFullError, match=r"no space for .*needs [\d,]+ bytes, [\d,]+ are free"):
            build(request_for(), toolchain=StandIn())
    assert not (tmp_path / "artifact").exists()
    assert leftovers(tmp_path) == []
    assert build(request_for(), toolchain=StandIn()).made == {"package": 1}


def test_a_full_disk_under_the_cache_is_told_of(
    request_for: Callable[..., BuildRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compiler.storage.cache.stages.write_through", full)
    with pytest.raises(DiskFullError, match="no space left") as caught:
        build(request_for(), toolchain=StandIn())
    assert caught.value.exit_code == 5
    assert not (tmp_path / "artifact").exists()
    assert list((tmp_path / "cache/work").iterdir()) == []
