"""Text that grows token by token: whole characters only, and cut before a stop sequence.

A character here is a Unicode code point. A token may end inside one: byte-level BPE and byte fallback cut UTF-8
anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens left out. Incomplete UTF-8 comes out as U+FFFD."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_OPEN_BYTES = 3  # bytes that a character of UTF-8 can have before its last one


class Detokenizer:
    """Turns tokens to text one by one.

    A decoder looks at neighbours (a leading blank, byte fallback), so a token has no text of its own. What a token
    adds is the difference between two decodings of a short window:

        ids      ... a b c | d e f          shown = decode(a b c)
                   window ^  ^ settled      new   = decode(a b c d e f) without `shown`

    The text of the prompt counts as shown, so that an answer's leading blank survives.

    Bytes of an incomplete character come out as U+FFFD: one for all of them (byte-level BPE) or one each (byte
    fallback), so up to three U+FFFD at the end are held back until a later token tells what they are. Byte fallback
    also undoes the complete characters of the same run of bytes until the run is valid again: then the window does not
    begin with `shown`.
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
        undone = not text.startswith(self._shown)
        if undone and len(self._ids) - self._settled <= _OPEN_BYTES:
            return ""
        new = text[len(self._shown) :]
        open_end = min(len(new) - len(new.rstrip(REPLACEMENT)), _OPEN_BYTES)
        if open_end:
            new = new[:-open_end]
            self._shown += new
        elif new:
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
