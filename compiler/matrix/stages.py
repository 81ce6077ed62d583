"""Stages of a build that are cells of their own, with machines and claims of their own.

[build.fleet]
stages = ["convert", "build", "prove"]      # default: ["build"]
another-host = true                         # `prove` runs on another machine than `build` did
[build.fleet.convert]                       # image and resources of a stage, over those of the build
instance = "ml.m7i.4xlarge"

`convert` makes rank files; `build` finds them in the stage cache, which machines without a common disk share by the
option `cache`. `prove` fetches the artifact from the store and lets it answer (`lmi-compile prewarm`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.matrix.cell import STAGES, Cell, resources_of
from compiler.matrix.state import MatrixRow, look
from compiler.storage.files.digest import Digest, digest_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.matrix.file import BuildEntry
    from compiler.matrix.ledger import Ledger


def stages_of(entry: BuildEntry) -> tuple[str, ...]:
    """Stages of a build in the order in which they run."""
    chosen = dict(entry.fleet).get("stages", ["build"])
    return tuple(stage for stage in STAGES if stage in chosen)


def cell_name(name: str, stage: str) -> str:
    return name if stage == "build" else f"{name}.{stage}"


def cell_names(entries: Sequence[BuildEntry]) -> list[str]:
    return [cell_name(entry.name, stage) for entry in entries for stage in stages_of(entry)]


def stage_cell(cell: Cell, stage: str, fleet: Mapping[str, Any], steps: list[dict[str, Any]], *, shared: bool) -> Cell:
    """Cell of a stage of the build that `cell` makes. `fleet`: [build.fleet]; `steps`: of the plan. `shared`: whether
    the machines have one disk.

    Raises UsageError where the stages would not meet.
    """
    if stage == "build":
        return cell
    if stage == "convert" and not shared and "cache" not in dict(cell.options):
        raise UsageError(
            f"`{cell.name}` converts and builds on different machines, which share no stage cache",
            hint='set `cache = "s3://..."` for the build, or leave `convert` out of `stages`',
        )
    own = {**fleet, **({"gpus": 0} if stage == "convert" else {}), **fleet.get(stage, {})}
    return replace(
        cell,
        name=cell_name(cell.name, stage),
        stage=stage,
        artifact=cell.name,
        artifact_key=cell.key,
        key=stage_key(cell.key, stage),
        image=str(own.get("image", "")),
        resources=resources_of(dict(cell.options), own, [step for step in steps if step["stage"] == "convert"]),
        another_host=stage == "prove" and not shared and bool(fleet.get("another-host")),
    )


def stage_key(key: Digest, stage: str) -> Digest:
    """Key of a stage of the build with `key`."""
    return key if stage == "build" else digest_json({"key": key, "stage": stage})


def look_cell(ledger: Ledger, cell: Cell, output: Path) -> MatrixRow:
    """Row of a cell: `current` where its artifact exists, or the ledger has the end of its stage. Raises StoreError."""
    if cell.stage == "build":
        return look(cell, cell.key, output, cell.store or None)
    ended = ledger.end(cell.key)
    return MatrixRow(cell.name, "new", cell.key) if ended is None else replace(ended, state="current", seconds=0.0)
