"""Decorator and registry of the cases."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tests.cases

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[[Path], None]

CASES: list[Case] = []
"""All cases of the modules that were imported; `load_cases` imports all."""


@dataclass(frozen=True)
class Case:
    """One input and its right outcome. `check` works in an empty folder, and raises AssertionError where the outcome
    is another. `builds`: it runs a real compiler and takes half a minute.
    """

    row: int
    title: str
    check: Check
    builds: bool

    @property
    def name(self) -> str:
        """Identifier of the case, unique in the registry."""
        return f"{self.row}-{self.check.__name__}"


def case(row: int, title: str, *, builds: bool = False) -> Callable[[Check], Check]:
    """Register the decorated function as a case of row `row`. A row may have several cases."""

    def register(check: Check) -> Check:
        CASES.append(Case(row, title, check, builds))
        return check

    return register


def load_cases() -> tuple[Case, ...]:
    """All cases, by row, in the order of their definition. Raises ValueError where two have one name."""
    for module in pkgutil.iter_modules(tests.cases.__path__):
        if not module.name.startswith(("test_", "__")):
            importlib.import_module(f"tests.cases.{module.name}")
    found = tuple(sorted(CASES, key=lambda one: one.row))
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two cases have one name: {sorted({name for name in names if names.count(name) > 1})}")
    return found
