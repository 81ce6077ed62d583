"""scripts/prewarm, with a stand-in for the command line that writes down how it was called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts/prewarm"
FAKE = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$CALLED"\necho table\nexit "${EXIT:-0}"\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "lmi-compile").write_text(FAKE)
    (folder / "lmi-compile").chmod(0o755)
    return folder


def run(programs: Path, *words: str | Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    called = programs / "called"
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLED": str(called), **variables}
    ran = subprocess.run(
        [SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    return ran, called.read_text().splitlines() if called.exists() else []


def test_the_command_starts_after_the_answer(programs: Path, tmp_path: Path) -> None:
    served = tmp_path / "new" / "model"
    options = {"PREWARM_OPTIONS": "--require-signature key.pub --allow-unproven"}
    ran, words = run(programs, "s3://b/e/m@current", served, "bash", "-c", 'echo "serving $LMI_MODEL_DIR"', **options)
    assert (ran.returncode, ran.stdout) == (0, f"serving {served}\n")
    expected = ["prewarm", "s3://b/e/m@current", str(served), "--require-signature", "key.pub", "--allow-unproven"]
    assert words == expected


def test_nothing_starts_where_the_artifact_did_not_answer(programs: Path, tmp_path: Path) -> None:
    ran, _ = run(programs, "s3://b/e/m", tmp_path / "model", "echo", "serving", EXIT="9")
    assert (ran.returncode, ran.stdout) == (9, "")


def test_without_a_command_it_only_prewarms(programs: Path, tmp_path: Path) -> None:
    ran, words = run(programs, "a", tmp_path / "model")
    assert (ran.returncode, words) == (0, ["prewarm", "a", str(tmp_path / "model")])
    assert run(programs, "a")[0].returncode == 2


# Nobody can make a folder in /proc, not even root: a stand-in for a read-only mount.
def test_a_folder_that_cannot_be_written_to(programs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ran, words = run(programs, "s3://b/e/m", "/proc/self", "printenv", "LMI_MODEL_DIR", PREWARM_DIR=str(copy))
    assert (ran.stdout, words) == (f"{copy}\n", ["prewarm", "s3://b/e/m", str(copy)])
    ran, words = run(programs, "/proc/self", "/proc/self", "printenv", "LMI_MODEL_DIR", TMPDIR=str(tmp_path))
    assert (ran.stdout, words) == (
        "/proc/self\n", ["prewarm", "/proc/self", "/proc/self", "--report", f"{tmp_path}/prewarm.json"]
    )  # fmt: skip
