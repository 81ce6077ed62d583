r"""Java's .properties syntax (java.util.Properties.load, Java SE documentation), and the container's second reader.

    # comment    ! comment    blank lines
    key=value    key : value    key value        blanks around the separator are dropped; trailing blanks are kept
    a long \     a line that ends in an odd number of backslashes continues; the leading blanks of the next line
        value    are dropped
    \t \n \r \f \\ \= \: \# \  \uXXXX            escapes; in any other \c the backslash is dropped

The front end uses this syntax. Scripts inside the container read serving.properties again with a reader of their own
(load_properties in serving/docker/partition/utils.py): one property per line, split at the first `=`, no escapes, no
continuations, and at v0.25.0 no trimming. `emit` only writes values that both readers understand alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compiler.errors import UsageError

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_BLANK = " \t\f"


@dataclass(frozen=True)
class Entry:
    """A property with the number of the line that it begins in, from 1."""

    line: int
    name: str
    value: str


def entries(text: str) -> list[Entry]:
    """Properties in `text`, in order and with repeats.

    Raises:
        UsageError: a malformed unicode escape.
    """
    pairs = ((number, _split(line)) for number, line in _logical_lines(text))
    return [Entry(number, _unescape(key), _unescape(value)) for number, (key, value) in pairs]


def parse(text: str) -> dict[str, str]:
    """Properties in `text`; the last value of a repeated key wins, as in Java. Raises as `entries`."""
    return {entry.name: entry.value for entry in entries(text)}


def parse_plain(text: str) -> dict[str, str]:
    """Properties as the container's Python reader of 0.25 reads them, the strictest one.

    Raises:
        UsageError: a line without `=`, at which that reader fails.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        key, separator, value = line.strip().partition("=")
        if not separator:
            raise UsageError(
                f"the container's own reader fails at a line without `=`: `{line.strip()}`",
                hint="write `key=value`, or `#` in front of a comment",
            )
        found[key] = value
    return found


def emit(entries: Mapping[str, str]) -> bytes:
    """Text of a .properties file: lines `key=value` in the order of `entries`.

    Raises:
        UsageError: a key or value that the two readers would understand differently.
    """
    for key, value in entries.items():
        if not re.fullmatch(r"[A-Za-z0-9_.\-]+", key):
            raise UsageError(
                f"a property's name has ASCII letters, digits, `_`, `.` and `-`; found `{key}`",
                hint="rename the property",
            )
        if not value.isascii() or not value.isprintable() or "\\" in value or value != value.strip():
            raise UsageError(
                f"`{key}` takes printable ASCII without backslashes or blanks at its ends; found {value!r}",
                hint="The container has two readers of serving.properties, which agree on such values only.",
            )
    return "".join(f"{key}={value}\n" for key, value in entries.items()).encode("ascii")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines with their continuations joined, without comments and blank lines.

    While a logical line is empty, the next line begins it: `#` then begins a comment, even after a continuation.
    """
    pending, continued, begun = "", False, 0
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        part = line.lstrip(_BLANK)
        if not pending and (not part or part[0] in "#!"):
            continued = continued and not part
            continue
        begun = begun if pending else number
        whole = pending + part
        continued = (len(part) - len(part.rstrip("\\"))) % 2 == 1
        pending = whole[:-1] if continued else ""
        if not continued:
            yield begun, whole
    # A continuation at the end of the text ends a logical line, even an empty one.
    if pending or (continued and re.search(r"\\[\n\r]?\Z", text)):
        yield begun, pending


def _split(line: str) -> tuple[str, str]:
    """Key and value, both still escaped."""
    end, escaped = 0, False
    while end < len(line) and (escaped or line[end] not in "=:" + _BLANK):
        escaped = not escaped and line[end] == "\\"
        end += 1
    rest = line[end:].lstrip(_BLANK)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANK)
    return line[:end], rest


_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9A-Fa-f]{4})|(?P<char>.?))", re.DOTALL)


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return chr(int(match["code"], 16))
        if match["char"] == "u":
            raise UsageError(
                f"`\\u` in a .properties file takes four hexadecimal digits; found `{text}`",
                hint="write `\\\\u` for a backslash and a `u`",
            )
        return _ESCAPES.get(match["char"], match["char"])

    joined = _ESCAPE.sub(character, text)
    # Java's text is UTF-16: two escapes can make one character.
    return joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
