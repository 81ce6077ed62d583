"""Every public class name is defined once in the tree: a name means one thing."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import compiler

ROOT = Path(compiler.__file__).parent


def _twice() -> set[str]:
    names = Counter(
        node.name
        for path in ROOT.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {name for name, count in names.items() if count > 1}


def test_every_public_class_is_defined_once() -> None:
    assert _twice() == set()
