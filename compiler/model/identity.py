"""Canonical JSON of plain values, for digests that outlive a release.

    Shard(axis=0, parts=8)             {"axis":0,"parts":8,"type":"Shard"}
    LayerKind("gated", window=None)    {"mlp":"gated","type":"LayerKind"}       None is the default of `window`
    b"..."                             {"sha256":"<64 hexadecimal digits>"}

A field that has its default is left out: a class that gains a field with a default keeps the JSON, and so the digest,
of every value that does not use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from json.encoder import encode_basestring_ascii as quoted
from math import isfinite
from typing import Any

_NO_DEFAULT = object()
_NAMES = {None: "null", True: "true", False: "false"}


def identity(value: object) -> str:
    """JSON text of dataclasses, tuples, lists, mappings with string keys, strings, bytes, numbers and None.

    Keys are sorted, without spaces, in ASCII. Raises TypeError for values of other types, ValueError for NaN and
    infinities.
    """
    return _json(value, {})


def changed_fields(value: object) -> dict[str, Any]:
    """The fields of a dataclass instance that differ from their default, and those that have none."""
    kind: Any = type(value)
    found = ((name, getattr(value, name), default) for name, _, default in _fields(kind) if name)
    return {name: item for name, item, default in found if item != default}


def _json(value: object, known: dict[int, str]) -> str:
    """`known`: JSON of the tuples and dataclasses met so far, by id: a plan repeats few programs many times."""
    if isinstance(value, str):
        return quoted(value)
    if type(value) is int:
        return str(value)
    found = known.get(id(value))
    if found is None:
        found = known[id(value)] = _compound(value, known)
    return found


def _compound(value: object, known: dict[int, str]) -> str:
    if isinstance(value, tuple | list):
        return f"[{','.join([_json(item, known) for item in value])}]"
    if is_dataclass(value):
        return _instance(value, known)
    if isinstance(value, Mapping):
        return "{" + ",".join([f"{quoted(key)}:{_json(value[key], known)}" for key in sorted(value)]) + "}"
    if value is None or isinstance(value, bool):
        return _NAMES[value]
    if isinstance(value, float) and isfinite(value):
        return repr(value)
    if isinstance(value, bytes):
        return f'{{"sha256":"{hashlib.sha256(value).hexdigest()}"}}'
    error = ValueError if isinstance(value, float) else TypeError
    raise error(f"no canonical JSON for {type(value).__name__} {value!r}")


def _instance(value: object, known: dict[int, str]) -> str:
    kind: Any = type(value)
    texts = []
    for name, key, default in _fields(kind):
        item = kind.__name__ if name == "" else getattr(value, name)
        if item is not default and item != default:
            texts.append(key + _json(item, known))
    return "{" + ",".join(texts) + "}"


@cache
def _fields(kind: Any) -> tuple[tuple[str, str, object], ...]:
    """Name, key in the JSON and default of every field of a dataclass, sorted by name; "type" has no name."""
    found: list[tuple[str, str, object]] = [("", '"type":', _NO_DEFAULT)]
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found.append((field.name, f"{quoted(field.name)}:", _NO_DEFAULT if default is MISSING else default))
    return tuple(sorted(found, key=lambda row: row[1]))
