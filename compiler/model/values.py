"""Typed values of config.json: each problem is noted with its key and value, and all are raised as one error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compiler.errors import SourceError
from compiler.model.places import Default, Place, lookup, paths

LIMITS: Mapping[str, tuple[int, int]] = {
    "layers": (1, 4096),
    "hidden": (1, 1 << 20),
    "heads": (1, 1 << 16),
    "kv_heads": (1, 1 << 16),
    "head_dim": (1, 1 << 16),
    "rotary_dim": (2, 1 << 16),
    "vocab": (1, 1 << 24),
    "max_positions": (2, 1 << 31),
    "experts": (1, 1 << 16),
    "experts_per_token": (1, 1 << 16),
    "decoder_sparse_step": (1, 4096),
    "sliding_window": (1, 1 << 31),
    "first_windowed": (0, 1 << 31),
}
"""Smallest and largest value of counts, far around every published model; of others: 0 to 2^24."""


@dataclass
class Values:
    """Reader of config.json. A value that is missing or of the wrong kind is noted in `problems`, and a harmless one
    returned; `check` raises SourceError for all of them.
    """

    hf: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)

    def count(self, name: str, place: Place) -> int:
        """Whole number within LIMITS; 64.0 counts as 64."""
        low, high = LIMITS.get(name, (0, 1 << 24))
        value = lookup(self.hf, place)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or not low <= value <= high:
            self.wrong(name, place, f"a whole number of {low} to {high}", value)
            return max(low, 1)
        return int(value)

    def real(self, name: str, place: Place, low: float, high: float) -> float:
        """Number above `low`, up to `high`."""
        return self.number(name, place, lookup(self.hf, place), low, high)

    def number(self, name: str, place: Place, value: Any, low: float, high: float) -> float:
        """`value`, found at `place`, as a number above `low`, up to `high`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            self.wrong(name, place, f"a number above {low:g}, up to {high:g}", value)
            return high
        return float(value)

    def flag(self, name: str, answer: bool | str | Default) -> bool:
        """True or false; null counts as false."""
        value = answer if isinstance(answer, bool) else lookup(self.hf, answer)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, answer if not isinstance(answer, bool) else (), "true or false", value)
            return False
        return bool(value)

    def items(self, name: str, place: Place, kind: type) -> list[Any] | None:
        """List of values of one kind, or None if absent or null."""
        value = lookup(self.hf, place)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            self.wrong(name, place, f"a list of {kind.__name__}", value)
            return None
        return value

    def wrong(self, name: str, place: Place, expected: str, found: object) -> None:
        """Note a problem."""
        keys = " or ".join(f"`{path}`" for path in paths(place)) or "no key"
        told = "nothing" if found is None else f"{found!r:.60}"
        self.problems.append(f"{name} ({keys}): expected {expected}, found {told}")

    def check(self) -> None:
        """Raise SourceError for the problems, if any."""
        if self.problems:
            raise SourceError(
                "config.json lacks values that this recipe reads, or has wrong ones:\n"
                + "\n".join(f"  {problem}" for problem in self.problems),
                hint="correct them in config.json, and check that it is that of the architecture which it names",
            )
