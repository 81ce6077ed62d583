"""The README says what plans say today."""

from __future__ import annotations

from pathlib import Path

import recipes
from tests.support_table import in_text, table

README = Path(__file__).parents[1] / "README.md"


def test_the_table_in_the_readme_is_current() -> None:
    """After a change that is meant: put the output of `python -m tests.support_table` into the README."""
    found, errors = in_text(README.read_text())
    assert errors.keys() == set(recipes.available())
    # Measured by the command alone; what makes each of them small is in tests/targets/trtllm/test_converted.py.
    assert all(float(error.split()[0]) < 5e-3 for error in errors.values())
    assert table(errors) == found
