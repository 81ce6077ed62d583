"""The examples: the Python one runs, the shell ones are valid and their commands parse."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from compiler import api
from tests.cli.test_help import parse

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))


def test_the_python_example_plans_builds_verifies_and_answers(
    tiny_checkpoint: Callable[[str], Path],
    tiny_artifact: Callable[[str, int], Path],
    session_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tiny_artifact("mixtral", 2)
    # The choices of `tiny_artifact`, so that its packages are in the cache.
    ask = api.Ask(tp=2, dtype="float32", max_positions=128, max_batch=4)
    monkeypatch.setattr(api, "_ask", lambda *_: ask)
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(session_folder / "cache"))
    monkeypatch.setattr(sys, "argv", ["api.py", str(tiny_checkpoint("mixtral")), str(tmp_path / "out")])
    found: dict[str, Any] = runpy.run_path(str(EXAMPLES / "api.py"))
    assert "compile" not in found["made"].made
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d,]+ bytes a rank, [\d,]+ bytes of KV cache a token", lines[0])
    assert lines[1].startswith("KL divergence from the checkpoint: ")
    assert "\n".join(lines[2:]) == api.generate(source, "Return the", max_new_tokens=8)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_example_is_valid_and_its_commands_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    lines = re.findall(r"^(?:exec )?lmi-compile (.*)$", script.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(re.sub(r" 2>\S+", "", line.replace("$store", "s3://bucket/engines")))
        assert parse(words).startswith("lmi-compile ")


def test_the_readme_lists_every_example() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.name != "README.md"}
