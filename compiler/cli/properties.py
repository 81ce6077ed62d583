"""Options of a command, filled from the serving.properties of `--from-properties`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import typer

from compiler import targets
from compiler.cli.options import RequestOptions
from compiler.cli.target_options import option_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from compiler.lmi.from_properties import LmiRequest

_GROUPS = {
    "model": ("revision",),
    "ask": ("tp", "dtype", "rope_scaling"),
    "limits": ("max_positions", "max_batch"),
    "own": ("pp", "moe_ep", "max_input_len", "max_num_tokens"),
}
"""Options that a file may fill, by their group in RequestOptions. `own`: those of some targets."""
_WHOLE = {"max_positions", "max_batch", "pp", "moe_ep", "max_input_len", "max_num_tokens"}
"""Options with whole numbers; the others are texts."""
_ONE = {"pp", "moe_ep"}
"""Options that every target has with the value 1."""


def with_properties(asked: RequestOptions, file: Path | None, image: str) -> RequestOptions:
    """The options, with those that were not given filled from `file`; a report of every property on stderr.

    An option of the command line replaces that of the file. Raises UsageError, RefusedError.
    """
    if file is None:
        return asked
    from compiler.lmi.from_properties import request_of_properties
    from compiler.quantization.request import Text

    found = request_of_properties(file, image, Text())
    target, filled, used, ignored = asked.ask.target, asked, [*found.quant_lines], dict(found.ignored)
    known = {option_name(field) for field in fields(targets.options_of(target))}
    for group, names in _GROUPS.items():
        options: Any = getattr(filled, group)
        changes: dict[str, Any] = {}
        for name in names:
            if name not in found.values:
                continue
            text, line = found.values[name], found.lines[name]
            given = getattr(options, name, None)
            if group == "own" and name not in known:
                _check_absent(found, target, name)
                ignored[line] = f"target {target} limits prompts and answers together, or not at all"
            elif given is not None:
                ignored[line] = f"`--{name.replace('_', '-')} {given}` replaces it"
            else:
                changes[name] = int(text) if name in _WHOLE else text
                used.append(f"{line}: `--{name.replace('_', '-')} {text}`")
        filled = replace(filled, **{group: replace(options, **changes)})
    _report(found, used, ignored)
    return filled


def _check_absent(found: LmiRequest, target: str, name: str) -> None:
    """Raise RefusedError if the value of an option that the target lacks would change what is built."""
    from compiler.errors import RefusedError

    if name in _ONE and found.values[name] != "1":
        raise RefusedError(
            f"{found.file} {found.lines[name]}: target `{target}` builds with 1 only",
            hint="build with `--target trtllm`, or remove the line",
        )


def _report(found: LmiRequest, used: list[str], ignored: Mapping[str, str]) -> None:
    """Print what became of every property, and warnings."""
    lines = [f"  used            {line}" for line in sorted(used, key=_number)]
    lines += [f"  without effect  {line}: {ignored[line]}" for line in sorted(ignored, key=_number)]
    typer.echo("\n".join([f"{found.file}:", *lines]), err=True)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _number(line: str) -> int:
    """Number of a text `line N ...`."""
    return int(line.split()[1])
