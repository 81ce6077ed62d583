"""The documentation says what plans say today."""

from __future__ import annotations

from pathlib import Path

import recipes
from tests.published import CONFIGS
from tests.support_table import REFUSED, TPS, in_text, outcome, table

PAGE = Path(__file__).parents[1] / "docs/pages/reference/support.md"


def test_the_table_of_what_is_supported_is_current() -> None:
    """After a change that is meant: put the output of `python -m tests.support_table` into the page."""
    found, errors = in_text(PAGE.read_text())
    assert errors.keys() == {recipes.for_config(hf)[0] for hf in CONFIGS.values()}
    # Measured by the command alone; what makes each of them small is in tests/targets/trtllm/test_converted.py.
    assert all(error == REFUSED or float(error.split()[0]) < 5e-3 for error in errors.values())
    for model, hf in CONFIGS.items():  # the refusals are lines of the table: only whole recipes have no error
        recipe = recipes.for_config(hf)[0]
        assert (errors[recipe] == REFUSED) == all(outcome(model, "trtllm", tp).reason for tp in TPS), model
    assert table(errors) == found
