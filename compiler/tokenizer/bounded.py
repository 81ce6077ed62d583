"""Encoding of text that anybody may send: the work is bounded by what a model can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.tokenizer.tokenizer import Tokenizer

_CHARACTERS_PER_TOKEN = 16
"""Length of the first beginning that is tried, per token: hardly any text has longer tokens on average."""
_CUT = 16
"""Tokens that a cut in the middle of a word may add."""


def encode_bounded(tokenizer: Tokenizer, text: str, most: int, *, special: bool = True) -> list[int]:
    """Ids of a text. If it has more than `most` tokens, they may be those of its beginning, more than `most` too.

    Raises:
        UsageError: the text has half of a surrogate pair, which UTF-8 cannot encode.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"expected text that UTF-8 can encode; found half of a surrogate pair at character {error.start}",
            hint="send a character outside the basic plane whole, as one pair of escapes",
        ) from None
    length = most * _CHARACTERS_PER_TOKEN
    while len(text) > length:
        ids = tokenizer.encode(text[:length], special=special)
        if len(ids) > most + _CUT:
            return ids
        length *= 4
    return tokenizer.encode(text, special=special)
