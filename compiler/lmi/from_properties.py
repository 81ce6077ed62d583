"""A serving.properties of LMI as a request of a build: every property is used, reported as without effect, or refused.

used             sizes, dtype, parallelism, revision, rope scaling, quantization: options of a build
without effect   what only the server or a finished engine reads, and what the target decides by itself
refused          unknown names, other back ends, wrong values, and what cannot be honored; all in one error
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from compiler.errors import LmiCompileError, RefusedError, UsageError
from compiler.lmi.effects import NO_EFFECT, QUANTIZATION, REFUSED_UNLESS, USED
from compiler.lmi.images import trtllm_image
from compiler.lmi.java_properties import Entry, entries
from compiler.lmi.options import BY_NAME
from compiler.lmi.package import LMI_DTYPES
from compiler.lmi.properties import Properties, Value, checked
from compiler.lmi.quantize import quantization_of
from compiler.quantization.request import ALPHA, Quant, Text, scheme_of
from compiler.quantization.schemes import FLOAT, SCHEMES
from compiler.quantization.vendors import VENDOR_CACHES, VENDOR_SCHEMES, W4A16_AWQ

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.lmi.images import Release

RELEASE: Release = (0, 29)
"""Release whose property names are assumed if no image is named: they hold from 0.28 to 0.32."""

PER_TENSOR = (
    "this configuration leaves out `option.smoothquant_per_token` and `option.smoothquant_per_channel`, which means "
    "one scale per tensor. That took Llama 2 13B from 54.5 to 29.4 in MMLU (TensorRT-LLM issue 1618); the gate of "
    "a build reports the loss of this model. Set both to true for a small loss"
)
_TP = "option.tensor_parallel_degree"
_DTYPES = {**{lmi: ours for ours, lmi in LMI_DTYPES.items()}, **{ours: ours for ours in LMI_DTYPES}}


@dataclass(frozen=True)
class LmiRequest:
    """Request of a serving.properties. `values`: text of each option of the command line that the file gives, by the
    option's name (`tp`, `max_batch` ...); `lines`: line and property that each comes from; `quant_lines`: those of
    `quant`. `ignored`: reason by line and property; `warnings`: sentences on the quantization.
    """

    file: Path
    quant: Quant
    values: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)
    quant_lines: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def request_of_properties(file: Path, image: str, text: Text) -> LmiRequest:
    """Request of the serving.properties `file`. `image`: LMI image that it is for, "" for RELEASE. `text`: calibration
    text; the file may override the number and the length of samples.

    Raises UsageError (unreadable file, unknown, foreign or contradictory properties) or RefusedError (nothing here is
    the same), with the line of each property at fault.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"`--from-properties {file}` cannot be read: {error.strerror}", hint="it takes a serving.properties"
        ) from None
    release = trtllm_image(image).release if image else RELEASE
    # Java reads a stream of bytes as Latin-1, which has no invalid bytes.
    found = entries(data.decode("latin-1"))
    last = {entry.name: entry for entry in found}
    ignored = {
        f"line {entry.line} `{entry.name}={entry.value}`": f"line {last[entry.name].line} replaces it"
        for entry in found
        if entry is not last[entry.name]
    }
    typed, problems = _typed(last, release)
    quant, warnings = Quant(text=text), list[str]()
    if not problems:
        try:
            quant, warnings = _quant(typed, release, text)
        except LmiCompileError as error:
            problems.append((_entry_of(error, last), error))
    if problems:
        raise _refusal(file, problems)
    values, sources = _values(typed)
    shown = {name: f"line {entry.line} `{name}={entry.value}`" for name, entry in last.items()}
    lines = {option: shown[name] for option, name in sources.items()}
    quant_lines = tuple(line for name, line in shown.items() if name in QUANTIZATION)
    handled = {*sources.values(), *QUANTIZATION}
    ignored |= {shown[name]: _reason(name) for name in last if name not in handled}
    return LmiRequest(file, quant, values, lines, quant_lines, ignored, tuple(warnings))


def _typed(
    last: Mapping[str, Entry], release: Release
) -> tuple[dict[str, Value], list[tuple[Entry | None, LmiCompileError]]]:
    """Typed values of the properties, and the errors of those that have none, with their entries."""
    typed: dict[str, Value] = {}
    problems: list[tuple[Entry | None, LmiCompileError]] = []
    for name, entry in last.items():
        if name == _TP and entry.value == "max":
            typed[name] = "max"
            continue
        try:
            typed[name] = checked(name, entry.value, release)
            _check_effect(name, typed[name])
        except LmiCompileError as error:
            problems.append((entry, error))
    return typed, problems


def _check_effect(name: str, value: Value) -> None:
    """Raise RefusedError for a value that would need another artifact than this project makes."""
    if name in REFUSED_UNLESS and value not in REFUSED_UNLESS[name]:
        raise RefusedError(
            f"`{name}` cannot be honored with the value `{value}`",
            hint=" or ".join(
                ["leave it out", *(f"write `{str(one).lower()}`" for one in REFUSED_UNLESS[name] if one != "")]
            ),
        )
    if name == "option.dtype" and value not in (*_DTYPES, "auto"):
        raise UsageError(
            f"`option.dtype` takes one of {', '.join(_DTYPES)}, auto; found `{value}`", hint="change the value"
        )


def _values(typed: Mapping[str, Value]) -> tuple[dict[str, str], dict[str, str]]:
    """Text of each option that the properties give, and the property that it comes from, by the option's name."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for name, option in USED.items():
        if name in typed and option not in values:
            values[option], sources[option] = str(typed[name]), name
    if "dtype" in values:
        if values["dtype"] == "auto":
            del values["dtype"]
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


def _quant(typed: Mapping[str, Value], release: Release, text: Text) -> tuple[Quant, list[str]]:
    """Quantization of the properties, and warnings. Raises UsageError, RefusedError."""
    found = quantization_of(Properties(release, {name: typed[name] for name in QUANTIZATION if name in typed}))
    named = {name: row for name, row in VENDOR_SCHEMES.items() if row.scheme}
    caches = {"": "", **VENDOR_CACHES}
    if found.quant_algo not in ("", *named) or found.kv_cache_quant_algo not in caches:
        raise RefusedError(
            f"cannot quantize to {found.quant_algo} {found.kv_cache_quant_algo}".rstrip(),
            hint=f"supported: {', '.join([*named, *VENDOR_CACHES])}",
        )
    row = named.get(found.quant_algo)
    group = VENDOR_SCHEMES[W4A16_AWQ].group
    if found.group_size not in (None, group):
        raise RefusedError(
            f"expected groups of {group} weights; found {found.group_size}", hint="leave the group size out"
        )
    scheme = None
    if row is not None:
        flags = SCHEMES[row.scheme].activations != FLOAT
        scheme = scheme_of(
            row.scheme,
            per_token=row.per_token if flags else None,
            per_channel=row.per_channel if flags else None,
        )
    length = typed.get("option.calib_max_seq_length")
    text = replace(
        text,
        samples=found.calibration_size or text.samples,
        length=text.length if length is None else int(length),
    )
    alpha = ALPHA if found.alpha is None else found.alpha
    coarse = row is not None and row.plugin and not (row.per_channel or row.per_token)
    return Quant(scheme, alpha, caches[found.kv_cache_quant_algo], text), [PER_TENSOR] if coarse else []


def _reason(name: str) -> str:
    """Reason why a property has no effect on a build."""
    if name in NO_EFFECT:
        return NO_EFFECT[name]
    if BY_NAME[name].when in ("server", "run"):
        return "read when the artifact is served: set it there"
    return "the target decides it by itself"


def _entry_of(error: LmiCompileError, last: Mapping[str, Entry]) -> Entry | None:
    """First entry whose name the message of an error has."""
    named = re.findall(r"option\.\w+", error.message)
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
