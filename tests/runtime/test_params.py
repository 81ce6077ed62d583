from __future__ import annotations

from typing import Any

import pytest

from compiler.errors import UsageError
from compiler.runtime.params import GenerationParams


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` is at least 1; found 0"),
        ({"temperature": -0.5}, "`temperature` is 0 (greedy) or above; found -0.5"),
        ({"temperature": float("nan")}, "`temperature`"),
        ({"top_k": -1}, "`top_k`"),
        ({"top_p": 0.0}, "`top_p` is above 0 and at most 1; found 0.0"),
        ({"top_p": 1.5}, "`top_p`"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty`"),
        ({"seed": -1}, "`seed`"),
        ({"stop": ("a", "")}, "`stop`"),
        ({"stop": "text"}, "`stop` is a tuple"),
        ({"top_log_probs": 21}, "`top_log_probs` is 0 to 20; found 21"),
    ],
)
def test_a_value_outside_its_range_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        GenerationParams(**wrong)
    assert said in caught.value.message


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        GenerationParams(max_new_tokens=0, top_p=2.0)
    assert len(caught.value.message.splitlines()) == 2
