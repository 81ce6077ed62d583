"""Ids of the tokens that end an answer, as generation_config.json and config.json have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping


def ends_in(config: Mapping[str, Any], file: str) -> frozenset[int] | None:
    """Ids of `eos_token_id` of the parsed file `file`: one id or a list; None where the key is absent or null.

    Raises SourceError for any other value.
    """
    value = config.get("eos_token_id")
    if value is None:
        return None
    found = value if isinstance(value, list) else [value]
    if not all(type(one) is int or (isinstance(one, float) and one.is_integer()) for one in found):
        raise SourceError(
            f"{file}: `eos_token_id` takes a token id or a list of token ids; found {value!r:.80}",
            hint="correct the key; the published model has the ids",
        )
    return frozenset(map(int, found))
