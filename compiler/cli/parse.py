"""Values of options, from the text of the command line."""

from __future__ import annotations

import re
from pathlib import Path

from compiler.errors import UsageError


def parse_size(text: str) -> int:
    """Bytes of `1GiB`, `512MiB`, `2 GB`, `1048576`. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i)?)?B?\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]):
        raise UsageError(
            f"`{text}` is not a size", hint="a size is a number of bytes, or a number with MiB, GiB, MB or GB"
        )
    power = "KMGT".index(match[2].upper()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_tp(text: str) -> int | None:
    """A number of ranks; None for `max`. Raises UsageError."""
    if text == "max":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"`--tp {text}`: expected a number from 1 up, or `max`", hint="pass `--tp 1` to begin with")
    return int(text)


def default_output(model: str, target: str, tp: int, dtype: str | None, scheme: str = "") -> Path:
    """Folder of an artifact where `--output` is not given: `artifacts/mixtral-inductor-tp8`."""
    words = [Path(model.rstrip("/")).name, target, f"tp{tp}", *([dtype] if dtype else [])]
    words += [scheme] if scheme else []
    return Path("artifacts") / "-".join(words)
