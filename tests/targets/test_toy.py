"""A target outside of the package: everything that it has comes from its own folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import compiler
from compiler import targets

if TYPE_CHECKING:
    from collections.abc import Callable

TOYS = Path(__file__).parent / "toys"
PACKAGE = Path(compiler.__file__).parent
SESSION = """
import contextlib, io, json, sys
from compiler import targets
targets.__path__ += json.loads(sys.argv[1])
from compiler.cli import main
told = []
for words in json.loads(sys.argv[2]):
    sys.argv, code = ["lmi-compile", *words], 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
"""Runs commands in one process that has further targets."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def session(*commands: tuple[object, ...], toys: bool = True) -> list[Ran]:
    """Commands of the command line in a process with the target `toy`, or without."""
    asked = json.dumps([[str(word) for word in words] for words in commands])
    line = [sys.executable, "-c", SESSION, json.dumps([str(TOYS)] if toys else []), asked]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [Ran(*each) for each in json.loads(done.stdout.splitlines()[-1])]


def test_the_toy_is_small() -> None:
    lines = [line for file in (TOYS / "toy").glob("*.py") for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 80


def test_a_target_of_its_own_goes_all_the_way(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMI_COMPILE_CACHE", str(tmp_path / "cache"))
    output, store = tmp_path / "artifact", f"file://{tmp_path}/store"
    asked = ("--model", tiny_checkpoint("llama"), "--target", "toy", "--json", "--cores")
    helped, planned, built, inspected, verified, warmed, again, other = session(
        ("build", "--help"),
        ("plan", *asked, 2),
        ("build", *asked, 2, "-o", output),
        ("inspect", output),
        ("verify", output),
        ("prewarm", output, output, "--prompt", "Hi", "--json"),
        ("build", *asked, 2, "-o", tmp_path / "again"),
        ("build", *asked, 1, "-o", tmp_path / "other", "--until", "compile"),
    )
    assert "Target toy:\n  --cores" in helped.out
    assert planned.json["ranks"] == []
    assert built.json["made"] == {"reference": 1, "compile": 1, "verify": 1, "package": 1}
    graphs = sorted(path.relative_to(output).as_posix() for path in (output / "graphs").rglob("*.bin"))
    assert graphs == ["graphs/core0/llama.bin", "graphs/core1/llama.bin"]
    for words in ("toycore", "press 1.0 for toycore", "2 cores"):
        assert words in inspected.out
    assert verified.code == 0
    assert warmed.json["answer"]["seconds_to_load"] == 0.5
    assert again.json["made"] == {"package": 1}
    assert other.json["made"] == {"compile": 1}

    # Where the toy is not installed, its artifact is published and fetched as it is; what needs the toy says so.
    inspected, pushed, pulled, refused = session(
        ("inspect", output),
        ("push", output, f"{store}/toy@v1"),
        ("pull", f"{store}/toy@v1", tmp_path / "pulled"),
        ("verify", output),
        toys=False,
    )
    assert "toycore" in inspected.out
    assert (pushed.code, pulled.code) == (0, 0), pushed.err + pulled.err
    assert (tmp_path / "pulled/manifest.json").read_bytes() == (output / "manifest.json").read_bytes()
    assert refused.code == 2
    assert "no target is called `toy`" in refused.err


def test_an_option_of_another_target_is_refused() -> None:
    (ran,) = session(("plan", "--model", "llama3-8b", "--target", "inductor", "--cores", 1))
    assert ran.code == 2
    assert "`--cores` is an option of target `toy`; found `--target inductor`" in ran.err


@pytest.mark.parametrize("gone", targets.available())
def test_deleting_the_folder_of_a_target_deletes_the_target(
    gone: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "compiler", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(tmp_path / "compiler/targets" / gone)
    shutil.copytree(PACKAGE.parent / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    left = [name for name in targets.available() if name != gone]
    environment = {**os.environ, "LMI_COMPILE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    found = "import compiler, sys; assert compiler.__file__.startswith(sys.argv.pop(1)); "
    for name in left:
        model = ("--model", str(tiny_checkpoint("llama")), "--target", name)
        last = "package" if targets.load(name).layout is None else "convert"
        for words in (("plan", *model), ("build", *model, "-o", str(tmp_path / name), "--until", last)):
            line = [sys.executable, "-c", found + "from compiler.cli import main; main()", str(tmp_path), *words]
            ran = subprocess.run(line, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
            assert ran.returncode == 0, ran.stderr
