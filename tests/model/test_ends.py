from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import SourceError
from compiler.model.ends import ends_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        ({}, None),
        ({"eos_token_id": None}, None),
        ({"eos_token_id": 2}, {2}),
        ({"eos_token_id": 2.0}, {2}),
        ({"eos_token_id": [2, 5, 2]}, {2, 5}),
        ({"eos_token_id": []}, set()),
    ],
)
def test_ids_are_one_or_a_list(config: dict[str, Any], ids: set[int] | None) -> None:
    assert ends_in(config, "config.json") == ids


@given(JSON)
def test_any_other_value_is_refused_with_the_file_and_the_key(value: Any) -> None:
    try:
        found = ends_in({"eos_token_id": value}, "generation_config.json")
    except SourceError as error:
        said, found = error.message, None
    else:
        said = "generation_config.json: `eos_token_id` takes"
    assert said.startswith("generation_config.json: `eos_token_id` takes")
    assert found is None or all(type(one) is int for one in found)
