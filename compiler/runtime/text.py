"""Text that grows token by token: whole characters only, and cut before a stop sequence.

A character here is a Unicode code point. A token may end inside one: byte-level BPE and byte fallback cut UTF-8
anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out. Incomplete UTF-8 comes out as U+FFFD."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Turns tokens to text one by one.

    A decoder looks at neighbours (a leading blank, byte fallback), so a token has no text of its own. What a token
    adds is the difference between two decodings of a short window:

        ids      ... a b c | d e f          shown = decode(a b c)
                   window ^  ^ settled      new   = decode(a b c d e f) without `shown`

    The text of the prompt counts as shown, so that an answer's leading blank survives.

    Bytes of an incomplete character come out as U+FFFD, and byte fallback turns the whole run of bytes that they end,
    complete characters included, to U+FFFD until the run is valid again. So nothing is shown of U+FFFD at the end of
    the text before a later token tells what it is.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt)
        self._window = 0
        self._settled = len(self._ids)
        self._shown = decode(self._ids) if self._ids else ""

    def push(self, token: int) -> str:
        """The text that `token` completes; empty inside a character."""
        self._ids.append(token)
        text = self._decode(self._ids[self._window :])
        certain = text.rstrip(REPLACEMENT)
        new = certain[len(self._shown) :]
        self._shown += new
        if new and certain == text:
            self._window, self._settled = self._settled, len(self._ids)
            self._shown = self._decode(self._ids[self._window :])
        return new

    def flush(self) -> str:
        """What is left when no more tokens come: an incomplete character as U+FFFD."""
        new = self._decode(self._ids[self._window :])[len(self._shown) :]
        self._shown += new
        return new


class StopMatcher:
    """Cuts a stream of text before the first stop sequence.

    The first is the one that is complete first, read character by character (of several that end there, the longest),
    so the result does not depend on how the text is cut into pieces. The end of the text is held back as long as a stop
    sequence could begin in it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is safe to show, whether a stop sequence was found)."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)[1]], ""
            return shown, True
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop` and is not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
