"""The wheel: complete, and its commands run outside of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import write

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, made by its build backend."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (found,) = folder.glob("lmi_compile-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, and nothing of the checkout; what it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    _run([*pip, "--target", str(folder), str(wheel)], folder)
    return folder


def _run(argv: list[str], folder: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(site), "LMI_COMPILE_CACHE": str(folder)} if site else {})}
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_wheel_has_every_file_of_its_packages(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for package in ("compiler", "recipes")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    assert ours - found == set()
    assert {name for name in found - ours if ".dist-info/" not in name} == set()
    assert {Path(name).suffix for name in ours} >= {".py", ".json", ".cpp", ".h", ".j2", ".css", ".txt"}


def test_commands_of_the_wheel_run_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    def command(*words: str) -> str:
        return _run([sys.executable, str(installed / "bin/lmi-compile"), *words], tmp_path, installed).stdout

    place = _run([sys.executable, "-c", "import compiler; print(compiler.__file__)"], tmp_path, installed).stdout
    assert Path(place.strip()).is_relative_to(installed)
    assert "\n  doctor " in command("--help")
    assert len(json.loads(command("plan", "--model", "mixtral", "--tp", "8", "--offline", "--json"))["ranks"]) == 8
    assert "mixtral" in {row["recipe"] for row in json.loads(command("models", "--json"))}
    abilities = {row["target"]: row for row in json.loads(command("doctor", "--json"))["abilities"]}
    assert "pip install -e" not in str(abilities)  # there is no checkout to install from
    command("report", str(write(tmp_path / "tiny")), "--output", "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
