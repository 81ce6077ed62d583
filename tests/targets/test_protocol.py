"""Targets are found by their folders and cast to the protocol: so that each has all of it is looked at here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from compiler import targets
from compiler.targets import Elsewhere, Target, Toolchain


def lacking(module: Any, protocol: type) -> list[str]:
    """Members of a protocol that a module has not, or has with parameters of other names."""
    problems = [name for name in protocol.__annotations__ if not hasattr(module, name)]
    for name, wanted in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        found = getattr(module, name, None)
        if found is None:
            problems.append(name)
            continue
        names = [parameter.lstrip("_") for parameter in inspect.signature(found).parameters]
        if names != list(inspect.signature(wanted).parameters)[1:]:
            problems.append(f"{name}({', '.join(names)})")
    return problems


@pytest.mark.parametrize("name", targets.available())
def test_a_target_has_all_that_the_stages_ask_for(name: str) -> None:
    target = targets.load(name)
    assert lacking(target, Target) == []
    assert lacking(targets.toolchain_of(name), Toolchain) == []
    assert target.elsewhere is None or lacking(target.elsewhere, Elsewhere) == []
    assert target.stages[:2] == ("plan", "convert")
    assert target.stages[-3:] == ("compile", "package", "verify")
    assert ("judge" in target.stages) == (target.judge_of is not None)
