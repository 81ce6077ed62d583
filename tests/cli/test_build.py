"""`build` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compiler.cli import app
from compiler.targets.inductor.target import TARGET
from tests.stand_in import StandIn


def test_tp_max_is_resolved_before_the_output_is_named(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four devices, and four ranks that the model can be split over."""
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(type(TARGET.compiler), "toolchain", lambda _self: StandIn())
    monkeypatch.chdir(tmp_path)
    model = tiny_checkpoint("llama")
    asked = ["build", "--model", str(model), "--tp", "max", "--instance-type", "ml.g5.12xlarge", "--max-batch", "2"]
    done = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    output = Path(json.loads(done.stdout)["output"])
    assert output == tmp_path / f"artifacts/{model.name}-inductor-tp4"
    assert json.loads((output / "manifest.json").read_text())["parallel"]["tp"] == 4
