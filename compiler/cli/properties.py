"""Options of a command, filled from its image and from the serving.properties of `--from-properties`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import typer

from compiler import targets
from compiler.cli.options import QuantOptions, RequestOptions, text_of
from compiler.cli.output import warn
from compiler.cli.target_options import image_of, option_name, options_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from compiler.lmi.from_properties import LmiRequest

_GROUPS = {
    "model": ("model", "revision"),
    "ask": ("tp", "dtype", "rope_scaling"),
    "limits": ("max_positions", "max_batch"),
    "own": ("pp", "moe_ep", "max_input_len", "max_num_tokens"),
}
"""Options that a file may fill, by their group in RequestOptions. `own`: those of some targets."""
_WHOLE = {"max_positions", "max_batch", "pp", "moe_ep", "max_input_len", "max_num_tokens"}
"""Options with whole numbers; the others are texts."""
_ONE = {"pp", "moe_ep"}
"""Options that every target has with the value 1."""
_MODEL = "`--model` names the model"


def completed(
    asked: RequestOptions, quant: QuantOptions, environment: Mapping[str, str] | None = None
) -> tuple[RequestOptions, LmiRequest | None]:
    """The options with the target of their image, and those that were not given filled from `--from-properties`; the
    file's request. A report of every property goes to stderr.

    An option of the command line replaces that of the file, which replaces variables of `environment`. Raises
    UsageError, RefusedError.
    """
    asked = with_target(asked)
    _report_options(asked)
    file = quant.from_properties
    if file is None:
        return asked, None
    from compiler.lmi.from_properties import request_of_properties

    target = asked.ask.target or targets.DEFAULT
    known, serves = targets.options_of(target), options_of(target, asked.own).backends
    found = request_of_properties(file, image_of(asked.own), text_of(quant), serves, environment)
    filled, used, ignored = asked, [*found.quant_lines], dict(found.ignored)
    names_of_target = {option_name(field) for field in fields(known)}
    for group, names in _GROUPS.items():
        options: Any = getattr(filled, group)
        changes: dict[str, Any] = {}
        for name in names:
            if name not in found.values:
                continue
            text, line = found.values[name], found.lines[name]
            given = getattr(options, name, None)
            if group == "own" and name not in names_of_target:
                _check_absent(found, target, name)
                ignored[line] = f"target {target} limits prompts and answers together, or not at all"
            elif given is not None:
                ignored[line] = _MODEL if name == "model" else f"`--{name.replace('_', '-')} {given}` replaces it"
            else:
                changes[name] = int(text) if name in _WHOLE else text
                used.append(f"{line}: `--{name.replace('_', '-')} {text}`")
        filled = replace(filled, **{group: replace(options, **changes)})
    _report(found, used, ignored)
    if "profile" in names_of_target:
        filled = _with_profile(filled, found, serves)
    return with_options(filled, found.carried), found


def _with_profile(asked: RequestOptions, found: LmiRequest, serves: Collection[str]) -> RequestOptions:
    """The options with the profile of a serving.properties. Raises UsageError where they name another one."""
    from compiler.errors import UsageError

    own: Any = asked.own
    if found.backend.name not in serves:
        raise UsageError(
            f"{found.file} is for {found.backend.title}; found `--profile {own.profile or ' or '.join(serves)}`",
            hint="leave `--profile` and `--image` out, or change the file",
        )
    return replace(asked, own=replace(own, profile=found.backend.name))


def with_target(asked: RequestOptions) -> RequestOptions:
    """The options with the target that serves `--image`, where none was named.

    Raises UsageError for an image of another target than `--target`, or of none that is installed.
    """
    from compiler.errors import UsageError
    from compiler.lmi.images import targets_of_image

    image, named = image_of(asked.own), asked.ask.target
    if not image:
        return replace(asked, ask=replace(asked.ask, target=named or targets.DEFAULT))
    try:
        served = targets_of_image(image)
    except UsageError:
        if named is None:
            raise
        return asked
    target = served[0] if named is None else named
    if named is not None and named not in served and named in targets.available():
        raise UsageError(
            f"`--image {image}` serves artifacts of target `{'` or `'.join(served)}`; found `--target {named}`",
            hint="leave one of the two out",
        )
    if target not in targets.available():
        raise UsageError(
            f"`--image {image}` serves artifacts of target `{target}`, which is not installed",
            hint=f"installed targets: {', '.join(targets.available())}",
        )
    own: Any = asked.own
    if "image" not in map(option_name, fields(targets.options_of(target))):
        own = replace(own, image=None)
    return replace(asked, ask=replace(asked.ask, target=target), own=own)


def _report_options(asked: RequestOptions) -> None:
    """Print which of `--option` have no effect. Raises UsageError, RefusedError for those that are wrong."""
    from compiler.lmi.serving_options import serving_options

    target = asked.ask.target or targets.DEFAULT
    options: Any = options_of(target, asked.own)
    if options.backends and options.serving:
        for note in serving_options(options.serving, options.release, options.backends[0]).notes:
            warn(note)


def with_options(asked: RequestOptions, carried: Mapping[str, str]) -> RequestOptions:
    """The options with the properties `carried` for the artifact's serving.properties, before those of `--option`."""
    if not carried:
        return asked
    own: Any = asked.own
    lines = [f"{name}={value}" for name, value in carried.items()]
    return replace(asked, own=replace(own, option=[*lines, *(own.option or [])]))


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
    lines += [f"  carried         {line}" for line in sorted(found.carried_lines, key=_number)]
    lines += [f"  without effect  {line}: {ignored[line]}" for line in sorted(ignored, key=_number)]
    typer.echo("\n".join([f"{found.file}:", *lines]), err=True)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _number(line: str) -> int:
    """Number of a text `line N ...`; 0 for any other."""
    kind, number = line.split()[:2]
    return int(number) if kind == "line" else 0
