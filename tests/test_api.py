"""Python API: functions that take names and folders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler import api


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, compiler.api; print(*(name for name in ('torch', 'pydantic', 'boto3') if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_every_name_is_there() -> None:
    assert [name for name in api.__all__ if not hasattr(api, name)] == []


def test_a_plan_takes_a_folder(tiny_checkpoint: Callable[[str], Path]) -> None:
    plan = api.plan(tiny_checkpoint("llama"), tp=2, quant="int8-weight")
    assert (len(plan.ranks), plan.target, plan.quant.scheme and plan.quant.scheme.name) == (
        2,
        "inductor",
        "int8-weight",
    )
    with pytest.raises(api.LmiCompileError, match=r"`quant` is none, .*; found `int3`"):
        api.plan(tiny_checkpoint("llama"), quant="int3")


def test_an_artifact_travels_and_answers(tiny_artifact: Callable[[str, int], Path], tmp_path: Path) -> None:
    source = tiny_artifact("mixtral", 2)
    pushed = api.push(source, f"{tmp_path / 'store'}/small@v1")
    assert pushed.name == "small"
    api.pull(f"{tmp_path / 'store'}/small@v1", tmp_path / "here")
    assert api.open_artifact(tmp_path / "here").digest == api.open_artifact(source).digest
    assert api.verify(tmp_path / "here").numerics is not None
    answer = api.generate(tmp_path / "here", "Return the", max_new_tokens=4)
    assert isinstance(answer, str)
    assert answer == api.generate(source, "Return the", max_new_tokens=4)
