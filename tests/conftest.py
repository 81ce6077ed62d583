"""Fixtures for all tests: tiny checkpoints, written once a session and shared by parallel test processes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import write_checkpoint


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run share; pytest's `--basetemp` decides where it lies."""
    own = tmp_path_factory.getbasetemp()
    # Under pytest-xdist each process has a folder `popen-gw<i>` inside the run's folder.
    shared = (own.parent if own.name.startswith("popen-gw") else own) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def tiny_checkpoint(session_folder: Path) -> Callable[[str], Path]:
    """`tiny_checkpoint(case)`: the folder of a bfloat16 checkpoint of the case. Copy it to change it."""

    def checkpoint(case: str) -> Path:
        folder = session_folder / "tiny" / case.replace("/", "-")
        folder.parent.mkdir(exist_ok=True)
        written = folder.with_suffix(".written")
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not written.exists():
                write_checkpoint(case, folder)
                written.touch()
        return folder

    return checkpoint
