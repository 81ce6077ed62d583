"""Streaming detokenization and stop sequences.

A character here is a Unicode code point. A token may end inside one: byte-level BPE and byte fallback split UTF-8
anywhere. Only whole characters are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
"""Decoder of token ids to text, without special tokens. Incomplete UTF-8 becomes U+FFFD."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Incremental decoder, token by token.

    A decoder looks at neighbors (a leading blank, byte fallback), so a token has no text of its own. The text that a
    token adds is the difference between two decodings of a short window:

        ids      ... a b c | d e f          shown = decode(a b c)
                   window ^  ^ settled      new   = decode(a b c d e f) without `shown`

    The text of the prompt counts as shown, so that an answer's leading blank survives.

    Bytes of an incomplete character become U+FFFD, and byte fallback turns the whole run of bytes up to them, complete
    characters included, to U+FFFD until the run is valid again. So U+FFFD at the end of the text is held back until a
    later token settles it.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt)
        self._window = 0
        self._settled = len(self._ids)
        self._shown = decode(self._ids) if self._ids else ""

    def push(self, token: int) -> str:
        """Add a token; the text that it completes, empty inside a character."""
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
        """End the stream; the text held back, an incomplete character as U+FFFD."""
        new = self._decode(self._ids[self._window :])[len(self._shown) :]
        self._shown += new
        return new


class StopMatcher:
    """Filter that cuts a stream of text before the first stop sequence, or behind it with `include`.

    `found`: the stop sequence.

    The first is the one that ends first, read character by character (of several that end there, the longest), so the
    result does not depend on the division of the text into pieces. The end of the text is held back as long as a stop
    sequence could begin in it.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops, self._include = tuple(stops), include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; the text that is safe to show, and whether a stop sequence was found."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            end, begin = min(found)
            self.found = self._held[begin:end]
            shown, self._held = self._held[: end if self._include else begin], ""
            return shown, True
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def flush(self) -> str:
        """End the stream; the text held back."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
