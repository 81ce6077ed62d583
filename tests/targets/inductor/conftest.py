from __future__ import annotations

import ctypes
import fcntl
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from compiler.storage.cache.stages import StageCache
from compiler.targets.inductor import library
from compiler.targets.inductor.build import versions, write_wrapper
from compiler.targets.inductor.device import MARCH
from compiler.targets.inductor.toolchain import archiver, cxx


@pytest.fixture(autouse=True, scope="package")
def two_threads() -> Iterator[None]:
    """Kernels divide their work, whatever OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def native(session_folder: Path, session_cache: StageCache) -> Path:
    """The folder of the library of `native/` and its object files; compiled once for all tests that need it."""
    folder = session_folder / "native"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            folder.mkdir()
            inputs, compiler = library.LibraryInputs(versions("cpu"), MARCH), write_wrapper(folder, MARCH)
            kept = library.cached_library(session_cache, inputs, compiler, folder / "work", jobs=2, timeout=600)
            shutil.copy(kept / f"lib{library.NAME}.a", folder)
            subprocess.run([archiver(), "x", f"lib{library.NAME}.a"], cwd=folder, check=True)
            (folder / "built").touch()
    return folder


@pytest.fixture(scope="session")
def driven(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """A C++ file of this folder, linked with that library, and loaded."""

    def load(driver: str) -> ctypes.CDLL:
        shared, archive = tmp_path_factory.mktemp("driver") / "driver.so", native / f"lib{library.NAME}.a"
        argv = [cxx(), "-std=c++17", "-O1", "-fPIC", "-shared", "-fopenmp", f"-I{library.FOLDER}"]
        argv += [str(Path(__file__).with_name(driver)), str(archive), "-o", str(shared)]
        subprocess.run(list(map(str, argv)), check=True)
        return ctypes.CDLL(str(shared))

    return load
