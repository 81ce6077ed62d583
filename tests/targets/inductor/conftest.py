from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.targets.inductor import library
from compiler.targets.inductor.build import write_wrapper
from compiler.targets.inductor.device import MARCH
from compiler.targets.inductor.toolchain import cxx


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the library of `native/` and its object files."""
    folder = tmp_path_factory.mktemp("native")
    return library.build_library(write_wrapper(folder, MARCH), folder / "library", jobs=2, timeout=600).parent


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
