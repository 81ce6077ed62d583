"""Groups of options: frozen dataclasses whose fields are options.

A command under `@grouped` takes a group as one parameter; on the command line each field is an option of its own:

    @grouped
    def plan(model: ModelOptions, ask: AskOptions, as_json: Json = False) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

Command = TypeVar("Command", bound=Callable[..., None])


def grouped(command: Command) -> Command:
    """Command for typer, with each parameter that is a group replaced by one option for each of its fields.

    Raises TypeError if two options have the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            found = _parameters(kind)
        else:
            found = [parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)]
        for one in found:
            if one.name in parameters:
                raise TypeError(f"`{command.__name__}` has two options called `{one.name}`")
            parameters[one.name] = one

    @functools.wraps(command)
    def run(**values: Any) -> None:
        whole = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**whole, **values)

    # required options first, as `inspect.Signature` demands
    ordered = sorted(parameters.values(), key=lambda one: one.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]  # inspect reads it, functions lack it
    run.__annotations__ = {one.name: one.annotation for one in ordered}
    return run  # type: ignore[return-value]  # typer calls it with keywords


@functools.cache
def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    """One parameter for each option of a group; its help is under the group's `panel` unless it names another."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        (info,) = hints[field.name].__metadata__
        info.rich_help_panel = info.rich_help_panel or getattr(kind, "panel", None)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
