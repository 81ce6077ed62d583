"""Options of a target: a frozen dataclass whose fields the command line gathers.

@dataclass(frozen=True)
class ToyOptions(TargetOptions):
    cores: int = option(1, "NeuronCores of a rank.")        --cores on the command line
    layout: str = ""                                        derived: filled in by the target itself
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class TargetOptions:
    """Base class of targets' options; itself the options of a target that has none.

    Every field has a default. Fields made by `option` are set by users; all others are derived: `Support.quantized`
    sets them to the toolchain's names. `heads`: formats in which the target quantizes a head.
    """

    heads: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def images(cls) -> tuple[str, ...]:
        """Repository and tag of published images that serve the artifacts, oldest first; () if none is listed."""
        return ()

    @property
    def backends(self) -> tuple[str, ...]:
        """LMI's back ends that serve the artifacts and read their serving.properties; the default one first."""
        return ()

    @property
    def default_batch(self) -> int | None:
        """Rows per batch where none are requested; None: the command line's default."""
        return None

    @property
    def release(self) -> tuple[int, int] | None:
        """LMI release whose container serves the artifacts; None without one. Raises UsageError, RefusedError."""
        return None

    @property
    def split(self) -> Mapping[str, Any]:
        """Fields of the manifest's `parallel`, besides tp, that these options set."""
        return {}

    def on_instance(self, name: str | None) -> Self:
        """These options for an instance type; None: unknown. Targets whose files depend on it keep its name."""
        del name
        return self

    @property
    def derived(self) -> dict[str, Any]:
        """Fields that are not set by users."""
        return {each.name: getattr(self, each.name) for each in fields(self) if "help" not in each.metadata}

    def without_derived(self) -> Self:
        """These options with every derived field at its default."""
        return replace(self, **{each.name: each.default for each in fields(self) if "help" not in each.metadata})


def option(default: Any, help: str, flags: tuple[str, ...] = (), metavar: str | None = None) -> Any:  # noqa: A002
    """Field that is also a command-line option, `--name-of-the-field` unless `flags` names another. Parameters are
    typer's.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "metavar": metavar})
