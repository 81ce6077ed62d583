"""Namespaces of servers, and the mount point that they share."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from compiler.targets.vllm.isolation import isolation


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_folders_made_for_the_mount_point_are_removed_by_their_last_user(lock: Path) -> None:
    wanted = lock / "opt/ml/model"
    with isolation(lock, str(wanted)):
        with isolation(lock, str(wanted)):
            assert wanted.is_dir()
        assert wanted.is_dir()
    assert not (lock / "opt").exists()


def test_an_error_of_the_server_leaves_no_folder(lock: Path) -> None:
    wanted = lock / "opt/ml/model"
    with pytest.raises(OSError, match="no disk"), isolation(lock, str(wanted)):
        raise OSError("no disk")
    assert not (lock / "opt").exists()


def test_folders_that_were_there_stay(lock: Path) -> None:
    wanted = lock / "opt/ml/model"
    wanted.parent.mkdir(parents=True)
    with isolation(lock, str(wanted)):
        pass
    assert wanted.parent.is_dir()
    assert not wanted.exists()


def test_where_the_mount_point_cannot_be_made_the_server_reads_the_folder_itself(lock: Path) -> None:
    (lock / "file").touch()
    with isolation(lock, str(lock / "file/model")) as found:
        assert (found.isolated, found.model) == (False, str(lock))


def test_the_folder_is_in_place_in_a_container_that_has_it_there(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiler.targets.vllm.isolation._works", lambda _: False)
    place = lock / "model"
    place.mkdir()
    with isolation(place, str(place)) as found:
        assert (found.isolated, found.model) == (False, str(place))


def test_without_namespaces_the_model_is_placed_in_an_empty_folder(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the output folder of a SageMaker training job is: it exists, and is uploaded at the end."""
    monkeypatch.setattr("compiler.targets.vllm.isolation._works", lambda _: False)
    built, wanted = lock / "built", lock / "opt/ml/model"
    (built / "weights").mkdir(parents=True)
    (built / "config.json").write_text("{}")
    (built / "weights/rank0").write_text("zero")
    wanted.mkdir(parents=True)
    with isolation(built, str(wanted)) as found:
        assert found.model == str(wanted)
        assert (wanted / "config.json").read_text() == "{}"
        assert (wanted / "weights/rank0").read_text() == "zero"
    assert list(wanted.iterdir()) == []
    assert (built / "weights/rank0").read_text() == "zero"


def test_a_folder_that_has_files_gets_no_others(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compiler.targets.vllm.isolation._works", lambda _: False)
    built, wanted = lock / "built", lock / "model"
    built.mkdir()
    (built / "config.json").write_text("{}")
    wanted.mkdir()
    (wanted / "of another").touch()
    with isolation(built, str(wanted)) as found:
        assert found.model == str(built)
    assert [file.name for file in wanted.iterdir()] == ["of another"]


def test_a_namespace_has_no_network_but_its_own(lock: Path) -> None:
    with isolation(lock, str(lock / "model")) as found:
        if not found.isolated:
            pytest.skip("this machine allows no namespaces")
        ran = subprocess.run([*found.prefix, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    assert [line.split(":")[0].strip() for line in ran.stdout.splitlines()[2:]] == ["lo"]
