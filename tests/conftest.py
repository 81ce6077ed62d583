"""Fixtures for all tests: tiny checkpoints, written once a session and shared by parallel test processes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from compiler.storage.cache.stages import StageCache
from tests.tiny import write_checkpoint

# A busy machine is not a failure: no test has a time limit of its own.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run share; pytest's `--basetemp` decides where it lies."""
    own = tmp_path_factory.getbasetemp()
    # Under pytest-xdist each process has a folder `popen-gw<i>` inside the run's folder.
    shared = (own.parent if own.name.startswith("popen-gw") else own) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def session_cache(session_folder: Path) -> StageCache:
    """The stage cache of `tiny_artifact`, for tests that compile by themselves: it keeps the library of kernels."""
    return StageCache(session_folder / "cache", warn=print)


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


@pytest.fixture(scope="session")
def tiny_artifact(session_folder: Path, tiny_checkpoint: Callable[[str], Path]) -> Callable[[str, int], Path]:
    """`tiny_artifact(case, tp)`: a really compiled float32 artifact of the case, rows of 128 tokens, 4 at once.

    The first test that asks waits for the compiler, half a minute a case and tp. Copy the folder to change it.
    """

    def artifact(case: str, tp: int) -> Path:
        import recipes
        from compiler.api import Ask, BuildRequest, build

        folder = session_folder / "artifacts" / f"{case.replace('/', '-')}-tp{tp}"
        folder.parent.mkdir(exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            build(
                BuildRequest(
                    model=str(tiny_checkpoint(case)),
                    recipes=recipes,
                    ask=Ask(tp=tp, dtype="float32", max_positions=128, max_batch=4),
                    cache=session_folder / "cache",
                    output=folder,
                )
            )
        return folder

    return artifact
