"""A serving.properties of LMI, or the environment of its container, as a request of a build.

used             sizes, dtype, parallelism, model, revision, rope scaling, quantization: options of a build
carried          properties of the server that will serve the artifact: written into its serving.properties
without effect   properties of another server, or of a finished engine, and decisions of the target
refused          unknown names, wrong values, and what cannot be honored; all in one error
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compiler.errors import LmiCompileError, RefusedError, UsageError
from compiler.lmi.backends import TABLES, BackendTable, backend_of, others_with, property_of_variable
from compiler.lmi.images import parse_release, parse_tag, trtllm_image
from compiler.lmi.java_properties import Entry, entries
from compiler.lmi.package import LMI_DTYPES
from compiler.lmi.properties import Value, checked
from compiler.lmi.property_quant import quant_of_properties
from compiler.quantization.request import Quant, Text

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.lmi.images import Kind, Release

ENVIRONMENT_SUFFIX = ".env"
"""Suffix of a file with the environment of a container, `NAME=value` in each line, instead of properties."""
_TP = "option.tensor_parallel_degree"
_DTYPES = {**{lmi: ours for ours, lmi in LMI_DTYPES.items()}, **{ours: ours for ours in LMI_DTYPES}}
_LAID_OUT = frozenset({"model", "revision", "tp", "dtype", "max_batch", "max_positions"})
"""Options of a build that decide the serving.properties of a checkpoint."""
_PACKED = frozenset(
    {"engine", "option.rolling_batch", "option.entryPoint", "option.mpi_mode", "option.async_mode", "option.model_dir"}
)
"""Properties that the artifact's own serving.properties has from its layout."""


@dataclass(frozen=True)
class LmiRequest:
    """Request of a serving.properties. `backend`: the back end that it is for. `values`: text of each option of the
    command line that the file gives, by the option's name (`tp`, `max_batch` ...); `lines`: line and property that each
    comes from; `quant_lines`: those of `quant`. `carried`: properties for the artifact's serving.properties, by name,
    and `carried_lines`. `ignored`: reason by line and property; `warnings`: sentences on the quantization.
    """

    file: Path
    backend: BackendTable
    quant: Quant
    values: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    quant_lines: tuple[str, ...] = ()
    carried: Mapping[str, str] = field(default_factory=dict)
    carried_lines: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def request_of_properties(
    file: Path,
    image: str,
    text: Text,
    serves: Collection[str] = (),
    environment: Mapping[str, str] | None = None,
) -> LmiRequest:
    """Request of `file`, a serving.properties or the environment of a container (ENVIRONMENT_SUFFIX).

    `image`: tag or release of the LMI image that it is for, "" for the newest release of its back end. `text`:
    calibration text; the file may override the number and the length of samples. `serves`: back ends that will serve
    the artifact, and read its serving.properties. `environment`: of an optimization job; the file has precedence, as
    there.

    Raises UsageError (unreadable file, unknown, foreign or contradictory properties) or RefusedError (nothing here is
    the same), with the line of each property at fault.
    """
    found, ignored = _read(file, environment)
    last = {entry.name: entry for entry in found}
    ignored |= {
        shown(entry): f"line {last[entry.name].line} replaces it" for entry in found if entry is not last[entry.name]
    }
    release, kind = _image(image)
    try:
        table = TABLES[backend_of({name: entry.value for name, entry in last.items()}, kind, release)]
        release = _release(table, release, kind, image)
    except LmiCompileError as error:
        raise _refusal(file, [(_entry_of(error, last), error)]) from None
    served = table.name in serves
    typed, without, problems = _typed(last, table, release, served=served)
    ignored |= {shown(last[name]): reason for name, reason in without.items()}
    quant, warnings = Quant(text=text), list[str]()
    # A server that loads the checkpoint itself reads all but what the artifact's layout decides.
    job = environment is not None
    loads = served and table.name != "trtllm"
    if not problems and (job or not loads):
        try:
            quant, warnings = quant_of_properties(typed, table.name, release, text, job=job)
        except LmiCompileError as error:
            problems.append((_entry_of(error, last), error))
    if problems:
        raise _refusal(file, problems)
    values, sources = _values(typed, table)
    if loads:
        values = {option: value for option, value in values.items() if option in _LAID_OUT}
        sources = {option: name for option, name in sources.items() if option in _LAID_OUT}
    lines = {option: shown(last[name]) for option, name in sources.items()}
    if served and "max_batch" not in values:
        rows = _default_rows(table, release, typed)
        values["max_batch"] = str(rows)
        lines["max_batch"] = f"default of LMI {release[0]}.{release[1]} `option.max_rolling_batch_size={rows}`"
    handled = {*sources.values(), *(() if loads and not job else table.quantizes)}
    rest = [name for name in typed if name not in handled]
    carried = [name for name in rest if served and _carries(table, name, loads=loads)]
    ignored |= {shown(last[name]): _reason(table, name) for name in rest if name not in carried}
    return LmiRequest(
        file,
        table,
        quant,
        values,
        lines,
        tuple(shown(last[name]) for name in typed if name in handled & table.quantizes),
        {name: last[name].value for name in carried},
        tuple(shown(last[name]) for name in carried),
        ignored,
        tuple(warnings),
    )


def shown(entry: Entry) -> str:
    """`line 3 `option.dtype=fp16``, or the same with the name of the variable of a container."""
    return f"line {entry.line} `{entry.name}={entry.value}`" if entry.line else f"environment `{entry.name}`"


def _read(file: Path, environment: Mapping[str, str] | None) -> tuple[list[Entry], dict[str, str]]:
    """Properties of the file and of the environment, those of the environment first and in line 0, and reasons of
    lines without effect.
    """
    try:
        data = b"" if environment is not None and not file.exists() else file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"`--from-properties {file}` cannot be read: {error.strerror}", hint="it takes a serving.properties"
        ) from None
    # Java reads a stream of bytes as Latin-1, which has no invalid bytes.
    found, ignored = entries(data.decode("latin-1")), dict[str, str]()
    if file.suffix == ENVIRONMENT_SUFFIX or file.name == ENVIRONMENT_SUFFIX:
        named = [(entry, property_of_variable(entry.name)) for entry in found]
        # Without their values: a container's environment may have secrets.
        ignored = {f"line {entry.line} `{entry.name}`": "no property" for entry, name in named if not name}
        found = [Entry(entry.line, name, entry.value) for entry, name in named if name]
    names = {entry.name for entry in found}
    variables = {property_of_variable(name): value for name, value in (environment or {}).items()}
    more = [Entry(0, name, value) for name, value in variables.items() if name and name not in names]
    return [*more, *found], ignored


def _image(image: str) -> tuple[Release | None, Kind | None]:
    """Release and kind of an image; None where they are not known."""
    if not image:
        return None, None
    release = parse_release(image)
    if release is not None:
        return release, None
    tag = parse_tag(image)
    return tag.release, tag.kind


def _release(table: BackendTable, release: Release | None, kind: Kind | None, image: str) -> Release:
    """Release whose properties count. Raises UsageError for an image without the back end."""
    if table.name == "trtllm" and image:
        return trtllm_image(image).release
    if kind == "tensorrtllm" or (kind is not None and (kind == "neuronx") != (table.name == "neuronx")):
        raise UsageError(
            f"the properties are for {table.title}; `--image {image}` has none",
            hint="leave `--image` out, or name an image with this back end",
        )
    return release or table.newest


def _typed(
    last: Mapping[str, Entry], table: BackendTable, release: Release, *, served: bool
) -> tuple[dict[str, Value], dict[str, str], list[tuple[Entry | None, LmiCompileError]]]:
    """Typed values of the properties; reasons of those that no one reads; and errors with their entries."""
    typed: dict[str, Value] = {}
    without: dict[str, str] = {}
    problems: list[tuple[Entry | None, LmiCompileError]] = []
    for name, entry in last.items():
        reason = _unread(name, table)
        if reason:
            without[name] = reason
        elif name == _TP and entry.value == "max":
            typed[name] = "max"
        else:
            try:
                typed[name] = checked(name, entry.value, release, table.name)
                _check_effect(name, typed[name], table, served=served)
            except LmiCompileError as error:
                problems.append((entry, error))
    return typed, without, problems


def _unread(name: str, table: BackendTable) -> str:
    """Reason why the back end ignores a known property; "" for one that it reads, and for one that decides the
    artifact under another back end, or is unknown: these are errors.
    """
    if name in table.by_name:
        return ""
    prefixed = f"option.{name}"
    if not name.startswith("option.") and (prefixed in table.by_name or others_with(prefixed, table.name)):
        return f"the front end passes on `{prefixed}` only, with its prefix"
    others = others_with(name, table.name)
    decides = any(name in {*other.used, *other.fixed, *other.quantizes} for other in TABLES.values())
    return "" if decides or not others else f"{table.title} does not read this property of {' and '.join(others)}"


def _check_effect(name: str, value: Value, table: BackendTable, *, served: bool) -> None:
    """Raise RefusedError for a value that would need another artifact than this project makes, or another server."""
    if name in table.fixed and value not in table.fixed[name]:
        allowed = [f"write `{str(one).lower()}`" for one in table.fixed[name] if one != ""]
        raise RefusedError(
            f"`{name}` cannot be honored with the value `{value}`", hint=" or ".join(["leave it out", *allowed])
        )
    if not served and name in table.features and value not in table.features[name]:
        raise RefusedError(
            f"`{name}={value}` changes answers, and only the server of {table.title} has it",
            hint="leave it out, or pack the checkpoint for that server with `--target checkpoint`",
        )
    if name == "option.dtype" and value not in (*_DTYPES, "auto"):
        raise UsageError(
            f"`option.dtype` takes one of {', '.join(_DTYPES)}, auto; found `{value}`", hint="change the value"
        )


def _values(typed: Mapping[str, Value], table: BackendTable) -> tuple[dict[str, str], dict[str, str]]:
    """Text of each option that the properties give, and the property that it comes from, by the option's name."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for name, option in table.used.items():
        if name in typed and option not in values:
            values[option], sources[option] = str(typed[name]), name
    if "dtype" in values:
        if values["dtype"] == "auto":
            del values["dtype"], sources["dtype"]
        else:
            values["dtype"] = _DTYPES[values["dtype"]]
    prompt, answer = typed.get("option.max_input_len"), typed.get("option.max_output_len")
    if prompt is not None and answer is not None:
        values["max_positions"] = str(int(prompt) + int(answer))
        sources["max_positions"] = "option.max_output_len"
    kind, factor = typed.get("option.rotary_scaling_type"), typed.get("option.rotary_scaling_factor")
    if kind is not None and factor is not None:
        values["rope_scaling"] = f"{kind}:{factor:g}" if isinstance(factor, float) else f"{kind}:{factor}"
        sources |= {"rope_scaling": "option.rotary_scaling_type", "factor": "option.rotary_scaling_factor"}
    return values, sources


def _default_rows(table: BackendTable, release: Release, typed: Mapping[str, Value]) -> int:
    """Default of `option.max_rolling_batch_size`. 0.27 raises TensorRT-LLM's only together with max_num_tokens."""
    if table.name == "trtllm" and release == (0, 27) and "option.max_num_tokens" in typed:
        return table.default_rows((0, 28))
    return table.default_rows(release)


def _carries(table: BackendTable, name: str, *, loads: bool) -> bool:
    """Whether the artifact's serving.properties takes over a property. `loads`: its server loads the checkpoint."""
    own = {name for name, option in table.used.items() if not loads or option in _LAID_OUT}
    return name not in {*_PACKED, *own, *table.no_effect} and table.by_name[name].when in ("server", "run")


def _reason(table: BackendTable, name: str) -> str:
    """Reason why a property has no effect on a build."""
    if name in table.no_effect:
        return table.no_effect[name]
    if name in _PACKED or name in table.used:
        return "the artifact's layout decides it"
    if table.by_name[name].when in ("server", "run"):
        return "read when the artifact is served: set it there"
    return "the target decides it by itself"


def _entry_of(error: LmiCompileError, last: Mapping[str, Entry]) -> Entry | None:
    """First entry whose name the message of an error has."""
    named = re.findall(r"option\.\w+|engine", error.message)
    return next((last[name] for name in named if name in last), None)


def _refusal(file: Path, problems: list[tuple[Entry | None, LmiCompileError]]) -> LmiCompileError:
    """One error for all properties at fault."""
    kind = UsageError if any(isinstance(error, UsageError) for _, error in problems) else RefusedError
    if len(problems) == 1:
        ((entry, error),) = problems
        where = f"{file} line {entry.line}" if entry else str(file)
        return kind(f"{where}: {error.message}", hint=error.hint)
    lines = [
        f"  line {entry.line if entry else '?'}: {error.message} ({error.hint.rstrip('.')})"
        for entry, error in problems
    ]
    return kind(
        "\n".join([f"{len(problems)} properties of {file} cannot be used:", *lines]),
        hint="change or remove these lines; the other properties are right",
    )
