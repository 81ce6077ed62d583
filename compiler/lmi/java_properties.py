r"""Java's .properties syntax (java.util.Properties.load, Java SE documentation), and the container's second reader.

    # comment    ! comment    blank lines
    key=value    key : value    key value        blanks around the separator do not count; blanks at the end do
    a long \     value that goes on: a line that ends in an odd number of backslashes continues, the blanks that
        value    begin the next line are dropped
    \t \n \r \f \\ \= \: \# \  \uXXXX            escapes; of any other \c the backslash is dropped

The front end reads serving.properties so. Scripts inside the container read it a second time with a reader of their
own (load_properties in serving/docker/partition/utils.py): one line, one property, cut at the first `=`, no escapes,
no continuations, and at v0.25.0 no trimming. What is emitted here means the same to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from compiler.errors import UsageError

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_BLANK = " \t\f"


def parse(text: str) -> dict[str, str]:
    """The properties in `text`; of a key that is there twice the last value, as Java has it.

    Raises:
        UsageError: a unicode escape that is not one.
    """
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        key, value = _split(line)
        found[_unescape(key)] = _unescape(value)
    return found


def parse_plain(text: str) -> dict[str, str]:
    """The properties as the container's Python reader of 0.25 sees them: the strictest one.

    Raises:
        UsageError: a line without `=`, on which that reader dies.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        key, separator, value = line.strip().partition("=")
        if not separator:
            raise UsageError(f"the container's own reader dies on a line without `=`: `{line.strip()}`")
        found[key] = value
    return found


def emit(entries: Mapping[str, str]) -> bytes:
    """The lines `key=value` of `entries`, in their order.

    Raises:
        UsageError: a key or value that the two readers would understand differently.
    """
    for key, value in entries.items():
        if not re.fullmatch(r"[A-Za-z0-9_.\-]+", key):
            raise UsageError(f"a property's name is of ASCII letters, digits, `_`, `.` and `-`; found `{key}`")
        if not value.isascii() or not value.isprintable() or "\\" in value or value != value.strip():
            raise UsageError(
                f"`{key}` is printable ASCII without a backslash and without blanks at its ends; found {value!r}",
                hint="The container reads serving.properties twice, and only such values mean the same both times.",
            )
    return "".join(f"{key}={value}\n" for key, value in entries.items()).encode("ascii")


def _logical_lines(text: str) -> Iterator[str]:
    """Lines with their continuations joined; comments and blank lines left out.

    As long as a logical line is empty, the next line begins it: there `#` makes a comment even behind a continuation.
    """
    pending, continued = "", False
    for line in re.split(r"\r\n|\n|\r", text):
        part = line.lstrip(_BLANK)
        if not pending and (not part or part[0] in "#!"):
            continued = continued and not part
            continue
        whole = pending + part
        continued = (len(part) - len(part.rstrip("\\"))) % 2 == 1
        pending = whole[:-1] if continued else ""
        if not continued:
            yield whole
    # A text that ends in a continuation ends in a line, be it empty.
    if pending or (continued and re.search(r"\\[\n\r]?\Z", text)):
        yield pending


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
            raise UsageError(f"`\\u` of a .properties file is followed by four hexadecimal digits; found `{text}`")
        return _ESCAPES.get(match["char"], match["char"])

    joined = _ESCAPE.sub(character, text)
    # Java's text is UTF-16: two escapes may be one character.
    return joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
