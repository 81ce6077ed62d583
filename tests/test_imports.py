"""Who may import whom outside of `compiler`, whose own layers import-linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("benchmarks", "tests"),
        ("tests", "benchmarks"),
        ("testbed", "tests"),
        ("testbed", "benchmarks"),
        ("compiler", "testbed"),
        ("compiler", "tests"),
    ],
)
def test_what_tests_and_benchmarks_share_is_in_a_place_of_its_own(importer: str, imported: str) -> None:
    files = sorted((ROOT / importer).rglob("*.py"))
    assert files
    assert [str(file.relative_to(ROOT)) for file in files if imported in _packages(file)] == []


def _packages(file: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found
