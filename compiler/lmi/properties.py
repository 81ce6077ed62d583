"""serving.properties as a typed value: checked against the properties of the release, written, and read back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.errors import RefusedError, UsageError
from compiler.lmi import java_properties
from compiler.lmi.backends import (
    BACKEND_VALUES,
    INSTEAD,
    RENAMED,
    TABLES,
    BackendName,
    others_with,
    property_of_variable,
)
from compiler.lmi.images import Release
from compiler.lmi.options import Kind, Option

SERVING_PROPERTIES = "serving.properties"
Value = str | int | float | bool
_TYPES: dict[Kind, type] = {"int": int, "float": float, "bool": bool, "text": str}


@dataclass(frozen=True)
class Properties:
    """Properties of one model under one LMI release, in the order of the file.

    Names are full (`option.dtype`, `engine`), values have the type of the table of the back end.

    Raises:
        UsageError: an unknown name (the hint has the nearest ones), or a value of another type or outside its choices.
        RefusedError: a name that this release does not support yet, or no longer.
    """

    release: Release
    entries: Mapping[str, Value]
    backend: BackendName = "trtllm"

    def __post_init__(self) -> None:
        for name, value in self.entries.items():
            _check_value(_known(name, self.release, self.backend), value, self.backend)

    def to_bytes(self) -> bytes:
        """Bytes of the file: ASCII, one `name=value` per line.

        Raises:
            UsageError: a value that the container's two readers would understand differently.
        """
        return java_properties.emit({name: _spell(value) for name, value in self.entries.items()})


def parse(data: bytes, release: Release, backend: BackendName = "trtllm") -> Properties:
    """Read the bytes of a file, by Java's rules.

    Raises:
        UsageError, RefusedError: as `Properties`, or the text violates Java's syntax.
    """
    # Java reads a stream of bytes as Latin-1, which has no invalid bytes.
    raw = java_properties.parse(data.decode("latin-1"))
    typed = {name: checked(name, text, release, backend) for name, text in raw.items()}
    return Properties(release, typed, backend)


def checked(name: str, text: str, release: Release, backend: BackendName = "trtllm") -> Value:
    """Typed value of the property `name` with the text `text`. Raises UsageError, RefusedError as `Properties`."""
    option = _known(name, release, backend)
    value = _typed(option, text)
    _check_value(option, value, backend)
    return value


def known(release: Release, backend: BackendName = "trtllm") -> tuple[Option, ...]:
    """Properties that a back end reads in a release."""
    return tuple(option for option in TABLES[backend].options if _in(option, release))


def _in(option: Option, release: Release) -> bool:
    return option.since <= release and (option.until is None or release < option.until)


def _known(name: str, release: Release, backend: BackendName) -> Option:
    lmi = f"LMI {release[0]}.{release[1]}"
    option = TABLES[backend].by_name.get(name)
    if option is None:
        foreign = _foreign_name(name, backend)
        if foreign is not None:
            raise foreign
        names = [o.name for o in known(release, backend)]
        near = difflib.get_close_matches(name, names, n=3) or [n for n in names if n == f"option.{name}"]
        nearest = (
            f"Nearest: {', '.join(near)}."
            if near
            else "The names are in compiler/lmi/options.py and backend_options.py."
        )
        raise UsageError(f"{lmi} has no property `{name}`; it would be silently ignored", hint=nearest)
    if release < option.since:
        raise RefusedError(
            f"`{name}` begins with LMI {option.since[0]}.{option.since[1]}; this is for {lmi}", hint="Leave it out."
        )
    if option.until is not None and release >= option.until:
        raise RefusedError(
            f"`{name}` ends before LMI {option.until[0]}.{option.until[1]}; this is for {lmi}",
            hint=f"Its replacement is {option.instead or 'nothing'}.",
        )
    return option


def _foreign_name(name: str, backend: BackendName) -> UsageError | None:
    """Error for a name that has a meaning elsewhere; None for one that has none."""
    variable = property_of_variable(name)
    if variable:
        return UsageError(
            f"`{name}` is the name of an environment variable of the container",
            hint=f"in a serving.properties write `{variable}`",
        )
    if name in RENAMED:
        return UsageError(f"`{name}` is another name of `{RENAMED[name]}`", hint=f"write `{RENAMED[name]}`")
    others = others_with(name, backend)
    if others:
        title = TABLES[backend].title
        return UsageError(
            f"`{name}` is a property of another back end ({', '.join(others)}); {title} does not read it",
            hint=INSTEAD[name] if backend == "trtllm" and name in INSTEAD else f"remove it for {title}",
        )
    return None


def _check_value(option: Option, value: Value, backend: BackendName) -> None:
    wanted = _TYPES[option.kind]
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if not fits:
        raise UsageError(f"`{option.name}` takes type {wanted.__name__}; found {value!r}", hint="change the value")
    other = BACKEND_VALUES.get(option.name, {}).get(str(value)) if backend == "trtllm" else None
    if other is not None and value not in option.choices:
        raise UsageError(
            f"`{option.name}={value}` selects another back end ({other}), not TensorRT-LLM",
            hint=f"`option.rolling_batch=trtllm` selects TensorRT-LLM; `{option.name}` then takes "
            f"{', '.join(option.choices) or 'other values'}",
        )
    if option.choices and value not in option.choices:
        raise UsageError(
            f"`{option.name}` takes one of {', '.join(option.choices)}; found `{value}`", hint="change the value"
        )


def _spell(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(option: Option, text: str) -> Value:
    try:
        match option.kind:
            case "bool":
                return {"true": True, "false": False}[text.strip().lower()]
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "text":
                return text
    except (ValueError, KeyError):
        raise UsageError(
            f"`{option.name}` takes type {_TYPES[option.kind].__name__}; found `{text}`",
            hint="Only the front end resolves `max`; write the number." if text == "max" else "change the value",
        ) from None
