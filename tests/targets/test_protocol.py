"""Parts of targets, and what the tree outside their folders may know of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import compiler
from compiler import targets
from compiler.targets import protocols, runners, values
from compiler.targets.options import TargetOptions

ROOT = Path(compiler.__file__).parent
MOST = 7
"""Public members of a part."""


def members(kind: type) -> list[str]:
    """What a class offers of its own."""
    own = {*vars(kind), *getattr(kind, "__annotations__", ())}
    return sorted(name for name in own if not name.startswith("_"))


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for module in (protocols, runners, values)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__
    ],
)
def test_parts_are_small(kind: type) -> None:
    assert 0 < len(members(kind)) <= MOST, members(kind)


@pytest.mark.parametrize("name", targets.available())
def test_a_target_is_what_its_folder_says(name: str) -> None:
    target: Any = targets.load(name)
    assert target.name == name
    assert target.options is targets.options_of(name)
    assert issubclass(target.options, TargetOptions)
    parts = (target.support, target.layout, target.compiler, target.packager, target.runtime)
    for part in filter(None, parts):
        base = type(part).__mro__[1]
        known = {name for kind in base.__mro__ for name in members(kind)}
        assert set(members(type(part))) <= known, f"{type(part).__name__} has more than {base.__name__}"
    stages, layout = protocols.stages_of(target), target.layout
    assert stages[0] == "plan"
    assert stages[-3:] == ("compile", "package", "verify")
    assert ("convert" in stages) == (layout is not None)
    assert ("judge" in stages) == (layout is not None and layout.judge is not None)


def test_options_of_targets_have_defaults_and_say_what_they_are_for() -> None:
    for name in targets.available():
        for field in dataclasses.fields(targets.options_of(name)):
            assert field.default is not dataclasses.MISSING, field.name
            assert "help" not in field.metadata or field.metadata["help"]


def outside(pattern: str, *but: str) -> list[str]:
    """Lines of the package that match, but for those of files below some folders."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(but):
            lines = path.read_text().splitlines()
            found += [f"{place}:{number}" for number, line in enumerate(lines, 1) if re.search(pattern, line)]
    return found


def test_no_other_code_knows_the_sections_of_targets() -> None:
    assert outside(r"\.(segments|engines)\b(?!\.)", "targets/", "runtime/", "decoder/") == []
    assert outside(r"import .*\b(Segments|Engines)\b", "targets/", "runtime/") == []


def test_no_other_code_knows_the_options_of_a_target() -> None:
    assert outside(r"options\.(pp|moe_ep|version|image|quant_algo|kv_cache_quant_algo)\b", "targets/", "lmi/") == []
    assert outside(r"compiler\.targets\.(?!values|protocols|runners|options)\w", "targets/", "runtime/package.py") == []
    # The decision between targets names them, as the tables of images do.
    assert outside(r"[\"'](inductor|trtllm)[\"']", "targets/", "lmi/", "pipeline/decision.py") == []
