"""Options of the targets: gathered for the command line from their `TargetOptions`, and given back to them."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from compiler import targets

if TYPE_CHECKING:
    from compiler.targets.options import TargetOptions


def _own_options() -> dict[str, tuple[Any, Any]]:
    """Type and default of each option of the targets, by name. The default is None, so that an option that was given
    for another target can be refused.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for target in targets.available():
        kind = targets.options_of(target)
        hints = get_type_hints(kind)
        for field in fields(kind):
            name = option_name(field)
            if name is None or name in found:
                continue
            info = typer.Option(
                *field.metadata["flags"],
                help=field.metadata["help"],
                metavar=field.metadata["metavar"],
                rich_help_panel=f"Target {target}",
            )
            accepted = list[str] if hints[field.name] == tuple[str, ...] else hints[field.name]
            found[name] = (Annotated[accepted | None, info], None)
    return found


def option_name(field: Field[Any]) -> str | None:
    """Parameter name of a field of a target's options; None for a derived field."""
    if "help" not in field.metadata:
        return None
    flags = field.metadata["flags"]
    return str(flags[0]).lstrip("-").replace("-", "_") if flags else field.name


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class OwnOptions:
        """Options of all targets, gathered from their `TargetOptions`; None if not given."""
else:
    OwnOptions = make_dataclass(
        "OwnOptions", [(name, kind, default) for name, (kind, default) in _own_options().items()], frozen=True
    )


def options_of(target: str, own: OwnOptions) -> TargetOptions:
    """Options of `target`, from those given. Raises UsageError for an option that only other targets have."""
    from compiler.errors import UsageError

    given = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in fields(own)
        if (value := getattr(own, field.name)) not in (None, [])
    }
    kind = targets.options_of(target)
    names = {name: field.name for field in fields(kind) if (name := option_name(field)) is not None}
    for name in given.keys() - names.keys():
        owners = [each for each in targets.available() if name in map(option_name, fields(targets.options_of(each)))]
        raise UsageError(
            f"`--{name.replace('_', '-')}` is an option of target `{owners[0]}`; found `--target {target}`",
            hint=f"leave it out, or build with `--target {owners[0]}`",
        )
    return kind(**{names[name]: value for name, value in given.items()})


def image_of(own: OwnOptions) -> str:
    """Container image of `--image`, or ""."""
    return getattr(own, "image", None) or ""
