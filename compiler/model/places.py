"""Places: expressions for a value of config.json, because Hugging Face spells one thing in several ways.

"rope_parameters.rope_theta"               the value at a dotted path
("rms_norm_eps", "layernorm_epsilon")      the first of several places with a value; () has none
Half("intermediate_size")                  half of a value
Default("n_inner", times=(4, "n_embd"))    a value, else a constant, else a multiple of another value
Flag("multi_query", yes=1, no="n_head")    a constant or another value, depending on a flag
Constant(10000.0)                          a constant of the architecture's code, which config.json cannot change
Power("query_pre_attn_scalar", -0.5)       a power of a value
Times("n_shared", "moe_ffn")               the product of two values, 0 where one is absent or null
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.errors import SourceError


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
class Constant:
    """Value that the architecture's code states, whatever config.json says."""

    value: float


@dataclass(frozen=True)
class Power:
    """Value at `path` (or `value`, where it is absent or null) to the power of `exponent`; as it is if not positive."""

    path: str
    exponent: float
    value: float | None = None


@dataclass(frozen=True)
class Times:
    """Product of the values at two paths; 0 where one is absent or null."""

    first: str
    second: str


Place = str | tuple["Place", ...] | Half | Default | Flag | Power | Times | Constant


@dataclass(frozen=True)
class Layers:
    """Set of layers: those whose entry in the list at `path` is `value`.

    Other entries are "full_attention", or 0 where `value` is a number. Without a list, the set is that of `otherwise`;
    or all but every n-th layer, where n is the number at `period`, else `every`, and 0 means no layer.
    """

    path: str
    value: str | int
    every: int
    period: str = ""
    otherwise: Layers | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths that may decide."""
        return (self.path, self.period, *(self.otherwise.paths if self.otherwise else ()))

    def of(self, hf: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
        """Whether each of `layers` layers is in the set. Raises SourceError for a list or a period that is none."""
        found, named = lookup(hf, self.path), isinstance(self.value, str)
        if found:
            other = "full_attention" if named else 0
            wrong = not isinstance(found, list) or len(found) < layers or (named and len(found) != layers)
            if wrong or any(entry not in (self.value, other) for entry in found):
                raise SourceError(
                    f"config.json: expected `{self.path}` to be a list of {layers} entries, one for each layer, "
                    f"each {self.value!r} or {other!r}; found {found!r:.200}",
                    hint="take config.json again from where the model was published",
                )
            return tuple(entry == self.value for entry in found[:layers])
        if self.otherwise is not None:
            return self.otherwise.of(hf, layers)
        period = lookup(hf, self.period) if self.period else None
        if period is None:
            period = self.every
        if not isinstance(period, int) or isinstance(period, bool) or period < 0:
            raise SourceError(
                f"config.json: expected `{self.period}` to be a number of layers; found {period!r}",
                hint="take config.json again from where the model was published",
            )
        return tuple(period > 0 and (i + 1) % period != 0 for i in range(layers))


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
            return value // 2 if type(value) is int else value
        case Default(path, default, times):
            value = lookup(hf, path)
            if value is not None:
                return value
            if times is None:
                return default
            other = lookup(hf, times[1])
            return times[0] * other if type(other) in (int, float) else other
        case Flag(path, yes, no):
            return yes if lookup(hf, path) else lookup(hf, no)
        case Power(path, exponent, default):
            value = lookup(hf, path)
            value = default if value is None else value
            usable = type(value) in (int, float) and 0 < value < 1e30
            return value**exponent if usable else value
        case Times(first, second):
            factors = [lookup(hf, path) or 0 for path in (first, second)]
            wrong = [factor for factor in factors if type(factor) is not int]
            return wrong[0] if wrong else factors[0] * factors[1]
        case Constant(value):
            return value


def paths(place: Place) -> tuple[str, ...]:
    """All paths of config.json that `place` may read."""
    match place:
        case str():
            return (place,)
        case tuple():
            return tuple(path for one in place for path in paths(one))
        case Half(path) | Power(path):
            return (path,)
        case Default(path, _, times):
            return (path,) if times is None else (path, times[1])
        case Flag(path, _, no):
            return (path, no)
        case Times(first, second):
            return (first, second)
        case Constant():
            return ()
