"""Places: expressions for a value of config.json, because Hugging Face spells one thing in several ways.

"rope_parameters.rope_theta"               the value at a dotted path
("rms_norm_eps", "layernorm_epsilon")      the first of several places with a value; () has none
Half("intermediate_size")                  half of a value
Default("n_inner", times=(4, "n_embd"))    a value, else a constant, else a multiple of another value
Flag("multi_query", yes=1, no="n_head")    a constant or another value, depending on a flag
Times("n_shared", "moe_ffn")             the product of two values, 0 where one is absent or null
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Half:
    """Half of the value at `path` (Qwen-1 counts gate and up together)."""

    path: str


@dataclass(frozen=True)
class Default:
    """Value at `path`; where it is absent or null, `value`, or a multiple of the value at another path (`times`)."""

    path: str
    value: bool | int | float | str | None = None
    times: tuple[int, str] | None = None


@dataclass(frozen=True)
class Flag:
    """Constant `yes` if the flag at `path` is true, else the value at `no` (StarCoder's multi_query -> 1 kv head)."""

    path: str
    yes: int
    no: str


@dataclass(frozen=True)
class Times:
    """Times of the values at two paths; 0 where one is absent or null."""

    first: str
    second: str


Place = str | tuple["Place", ...] | Half | Default | Flag | Times


def lookup(hf: Mapping[str, Any], place: Place) -> Any:
    """Value at `place` of config.json, or None."""
    match place:
        case str():
            value: Any = hf
            for key in place.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            return value
        case tuple():
            return next((v for v in (lookup(hf, one) for one in place) if v is not None), None)
        case Half(path):
            value = lookup(hf, path)
            return None if value is None else value // 2
        case Default(path, default, times):
            value = lookup(hf, path)
            if value is not None:
                return value
            if times is None:
                return default
            other = lookup(hf, times[1])
            return None if other is None else times[0] * other
        case Flag(path, yes, no):
            return yes if lookup(hf, path) else lookup(hf, no)
        case Times(first, second):
            return (lookup(hf, first) or 0) * (lookup(hf, second) or 0)
