"""Properties that a user requests for the serving.properties of an artifact: `build --option NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compiler.errors import UsageError
from compiler.lmi.backends import TABLES
from compiler.lmi.images import Release
from compiler.lmi.options import SERVER
from compiler.lmi.properties import Value, checked

_OF_SERVER = frozenset(option.name for option in SERVER)
_STAGES = ("option.pipeline_parallel_degree", "option.pipeline_parallel_size")
_OWN: Mapping[str, str] = {
    **dict.fromkeys(("engine", "option.rolling_batch", "option.entryPoint"), "`--target` and `--image`"),
    **dict.fromkeys(("option.mpi_mode", "option.async_mode"), "`--image`"),
    **dict.fromkeys(("option.tensor_parallel_degree", "option.tensor_parallel_size"), "`--tp`"),
    **dict.fromkeys(_STAGES, "`--pp`"),
    "option.dtype": "`--dtype`",
    "option.model_id": "`--model`",
    "option.model_dir": "`--model`",
    "option.revision": "`--revision`",
}
"""Properties that follow from the artifact, and the options of a build that decide them."""


@dataclass(frozen=True)
class ServingOptions:
    """Typed properties by full name, and notes on those without effect."""

    values: dict[str, Value] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def named_options(lines: Sequence[str]) -> dict[str, str]:
    """Text of each property by full name: a name that is none of the server's gets its prefix `option.`. The last one
    of equal names counts. Raises UsageError for a line without `=`.
    """
    found: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition("=")
        if not separator or not name.strip():
            raise UsageError(
                f"`--option` takes NAME=VALUE; found `{line}`", hint="for example `--option output_formatter=jsonlines`"
            )
        name = name.strip()
        found[name if name in _OF_SERVER or name.startswith("option.") else f"option.{name}"] = value.strip()
    return found


def serving_options(lines: Sequence[str], release: Release | None, backend: str) -> ServingOptions:
    """Properties of `lines`, checked against those that the back end reads in the release.

    Raises UsageError (no release, an unknown name, a value of another type, or a property that follows from the
    artifact), RefusedError (a name of another release).
    """
    named = named_options(lines)
    if release is None:
        raise UsageError(
            f"`--option {lines[0]}` needs the LMI image that will serve the artifact; none has this version",
            hint="pass `--image`",
        )
    table, values, notes = TABLES[backend], dict[str, Value](), list[str]()
    for name, text in named.items():
        if name in _OWN and not (name in _STAGES and backend != "trtllm"):
            raise UsageError(f"`--option {name}` follows from the artifact", hint=f"{_OWN[name]} decides it")
        values[name] = checked(name, text, release, table.name)
        if table.by_name[name].when == "compile" or (backend == "trtllm" and name in table.quantizes):
            notes.append(f"`--option {name}={text}` has no effect: it counts when an engine is compiled from a model")
        elif name in table.fixed and values[name] not in table.fixed[name]:
            allowed = " or ".join(str(one).lower() for one in table.fixed[name]) or "no value"
            raise UsageError(f"`--option {name}` takes {allowed} here; found `{text}`", hint="leave it out")
    return ServingOptions(values, tuple(notes))
