"""scripts/endpoint, with a stand-in for the command line that writes down how it was called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts/endpoint"
FAKE = '#!/usr/bin/env bash\nprintf "%s " "$@" >>"$CALLED"\necho >>"$CALLED"\nexit "${EXIT:-0}"\n'


def _run(folder: Path, *words: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "lmi-compile").write_text(FAKE)
    (programs / "lmi-compile").chmod(0o755)
    called = programs / "called"
    called.unlink(missing_ok=True)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CALLED": str(called),
        "MODEL_DIR": str(folder / "model"),
        "PREWARM_DIR": str(folder / "copy"),
        **variables,
    }
    ran = subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True, check=False, cwd="/")
    return ran, [line.strip() for line in called.read_text().splitlines()] if called.exists() else []


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def test_a_mounted_artifact_is_prewarmed_and_served(model: Path, tmp_path: Path) -> None:
    (model / "manifest.json").write_text("{}")
    ran, calls = _run(tmp_path, "serve", SERVE_OPTIONS="--lmi-version 0.26")
    assert ran.returncode == 0, ran.stderr
    assert calls == [
        f"prewarm {model} {model}",
        f"serve {model} --host 0.0.0.0 --port 8080 --lmi-version 0.26",
    ]


@pytest.mark.parametrize(
    ("properties", "variables"),
    [
        ("engine=Python\noption.model_id=s3://b/e/m@current\n", {}),
        ("option.model_id = s3://b/e/m@current \r\n", {}),
        ("engine=Python\n", {"OPTION_MODEL_ID": "s3://b/e/m@current"}),
    ],
)
def test_small_model_data_names_the_artifact(
    model: Path, tmp_path: Path, properties: str, variables: dict[str, str]
) -> None:
    (model / "serving.properties").write_bytes(properties.encode())
    ran, calls = _run(tmp_path, **variables)
    assert ran.returncode == 0, ran.stderr
    copy = tmp_path / "copy"
    assert calls == [f"prewarm s3://b/e/m@current {copy}", f"serve {copy} --host 0.0.0.0 --port 8080"]


def test_nothing_is_served_without_an_artifact_or_without_its_answer(model: Path, tmp_path: Path) -> None:
    ran, calls = _run(tmp_path, "serve")
    assert (ran.returncode, calls) == (2, [])
    assert "s3:// address" in ran.stderr
    (model / "manifest.json").write_text("{}")
    ran, calls = _run(tmp_path, "serve", EXIT="9")
    assert (ran.returncode, len(calls)) == (9, 1)


def test_any_other_command_runs_as_it_is(model: Path, tmp_path: Path) -> None:
    assert not list(model.iterdir())
    assert _run(tmp_path, "lmi-compile", "doctor")[1] == ["doctor"]
