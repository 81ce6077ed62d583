"""Who may import whom outside of `compiler`, whose own layers import-linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = "benchmarks.testbed"
"""Stores, servers, faults and texts that tests and benchmarks share."""


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("benchmarks", "tests"), ("tests", "benchmarks"), ("compiler", "benchmarks"), ("compiler", "tests")],
)
def test_benchmarks_and_tests_share_one_package_and_import_nothing_else_of_each_other(
    importer: str, imported: str
) -> None:
    files = sorted((ROOT / importer).rglob("*.py"))
    assert files
    allowed = (SHARED,) if importer == "tests" else ()
    wrong = [
        f"{file.relative_to(ROOT)}: {module}"
        for file in files
        for module in _modules(file)
        if module.partition(".")[0] == imported and not module.startswith(allowed or ("-",))
    ]
    assert wrong == []


def test_the_shared_package_imports_neither_side() -> None:
    files = sorted((ROOT / "benchmarks" / "testbed").rglob("*.py"))
    assert len(files) > 1
    for file in files:
        own = [module for module in _modules(file) if module.startswith(("tests", "benchmarks"))]
        assert [module for module in own if not module.startswith(SHARED)] == []


def _modules(file: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found
