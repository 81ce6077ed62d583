"""Options of a target: a frozen dataclass of its own, whose fields the command line gathers.

@dataclass(frozen=True)
class ToyOptions(TargetOptions):
    cores: int = option(1, "NeuronCores of a rank.")        --cores on the command line
    layout: str = ""                                        derived: filled in by the target itself
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class TargetOptions:
    """Base of the options of every target, and the options of a target that has none.

    Every field has a default. Fields made by `option` are the user's; all others are derived: `Support.quantized`
    fills them in with the toolchain's own names.
    """

    @property
    def split(self) -> Mapping[str, Any]:
        """Fields of the manifest's `parallel` beyond tp that these options set."""
        return {}

    @property
    def derived(self) -> dict[str, Any]:
        """The fields that no user sets."""
        return {each.name: getattr(self, each.name) for each in fields(self) if "help" not in each.metadata}

    def asked(self) -> Self:
        """The same options with every derived field back at its default."""
        return replace(self, **{each.name: each.default for each in fields(self) if "help" not in each.metadata})


def option(default: Any, help: str, flags: tuple[str, ...] = (), metavar: str | None = None) -> Any:  # noqa: A002
    """A field that is an option of the command line, `--name-of-the-field` unless `flags` spell it otherwise.

    Parameters are named as typer's.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "metavar": metavar})
