"""Definitions of the cells for engines that others drive, to copy: pure functions from a builds.toml to a text.

Each cell runs `lmi-compile matrix build` for itself alone, with its entry of the builds.toml in the variable BUILDS, so
that the engine may run it twice: an artifact that is in the store is skipped.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.matrix.cell import resources_of
from compiler.matrix.failures import RETRIES
from compiler.matrix.names import FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import CellResources
    from compiler.matrix.file import BuildEntry

SCRIPT = 'printf %s "$BUILDS" >builds.toml && exec lmi-compile matrix build --store "$STORE" --output artifacts'
"""Shell line of a cell."""
ATTEMPTS = 1 + max(RETRIES.values())
FINAL_CODES = (2, 3, 4, 6, 7, 8, 9, 12, 70)
"""Exit codes after which another attempt ends in the same way."""


@dataclass(frozen=True)
class EmitOptions:
    """Options of all definitions. `timeout`: seconds of a cell; `parallel`: cells at a time, 0 for no limit.
    `tables`: [fleet.NAME] of the builds.toml.
    """

    store: str
    timeout: int
    parallel: int
    tables: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class EmittedCell:
    """A cell as definitions need it. `id`: at most 52 lower-case letters, digits and `-`; `builds`: its builds.toml."""

    name: str
    id: str
    builds: str
    image: str
    resources: CellResources


def emit(entries: Sequence[BuildEntry], form: str, options: EmitOptions) -> str:
    """Text of the definition. Raises UsageError where the builds.toml lacks what the engine needs."""
    if form not in FORMATS:
        raise UsageError(f"`--as` takes {', '.join(FORMATS)}; found `{form}`", hint="choose one of them")
    cells = [emitted_cell(entry) for entry in entries]
    module = importlib.import_module(f"compiler.matrix.emit.{FORMATS[form]}")
    return str(module.text(cells, options))


def emitted_cell(entry: BuildEntry) -> EmittedCell:
    fleet = dict(entry.fleet)
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in entry.options]
    return EmittedCell(
        entry.name,
        identifier(entry.name),
        "\n".join(["[[build]]", *lines, ""]),
        str(fleet.get("image", "")),
        resources_of(dict(entry.options), fleet, []),
    )


def identifier(name: str) -> str:
    """Name of a job by the rules of DNS labels; names that differ in other characters only stay different."""
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= 52:
        return plain
    return f"{plain[:43].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def with_image(cells: Sequence[EmittedCell], form: str) -> None:
    """Check that each cell has an image. Raises UsageError with the names of those without."""
    missing = [cell.name for cell in cells if not cell.image]
    if missing:
        raise UsageError(
            f"`--as {form}` needs the image of each build; without: {', '.join(missing)}",
            hint='set `image = "..."` in [fleet], or in a [build.fleet]',
        )


def yaml_text(documents: Sequence[Mapping[str, Any]]) -> str:
    """YAML documents, keys in the order of the dictionaries."""
    import yaml

    return str(yaml.safe_dump_all(documents, sort_keys=False, width=120))
