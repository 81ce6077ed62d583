"""Index of a sharded checkpoint, `{"weight_map": {tensor: file}}`: the authority on its files and tensors.

Shards may have any name. A tensor in two files counts in the one that the index names; tensors that it does not list
are not part of the model, as in transformers and vLLM. Entries without a tensor matter only where the model needs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compiler.errors import CheckpointError
from compiler.storage.checkpoints.header import HeaderError
from compiler.storage.checkpoints.lfs import POINTER_HINT, is_pointer

if TYPE_CHECKING:
    from collections.abc import Iterable

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"

FORMS = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
"""File of each form that weights are stored in; the first one found counts."""

_SHOWN = 3

Entry = TypeVar("Entry")
WeightMap = Mapping[str, str]


@dataclass(frozen=True)
class IndexDifference:
    """Tensors on which an index and the headers of its files differ, each with a file: `absent` from the file that the
    index names, `unlisted` in the index, `repeated` in a file besides the one that the index names.
    """

    absent: WeightMap = field(default_factory=dict)
    unlisted: WeightMap = field(default_factory=dict)
    repeated: WeightMap = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is left out."""
        lines = []
        if self.unlisted:
            lines.append(f"left out, since the index does not list them: {shown(self.unlisted)}")
        if self.repeated:
            lines.append(f"in several files, taken from the one that the index names: {shown(self.repeated)}")
        return tuple(lines)


NO_DIFFERENCE = IndexDifference()


def shown(names: Iterable[str]) -> str:
    """`3 tensor(s) (a, b, c)`, with the first few names in order."""
    found = sorted(names)
    more = ", ..." if len(found) > _SHOWN else ""
    return f"{len(found)} tensor(s) ({', '.join(found[:_SHOWN])}{more})"


def form_of(names: Iterable[str]) -> str:
    """The one of FORMS that decides on the weights of a model with these files; "" without one."""
    present = set(names)
    return next((name for name in FORMS if name in present), "")


def read_weight_map(index: Path) -> dict[str, str]:
    """Read `{tensor: file name}` from an index file. Raises CheckpointError if it is none, or names other folders."""
    return parse_weight_map(index.read_bytes(), index.name)


def parse_weight_map(data: bytes, name: str) -> dict[str, str]:
    """Parse the bytes of an index (see read_weight_map); `name`: the index's name in errors."""
    if is_pointer(data):
        raise CheckpointError(f"{name} is a git-lfs pointer, not the index", hint=POINTER_HINT)
    try:
        index: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON: {error}", hint="download the file again") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(
            f"{name}: expected `weight_map`, a map from tensors to files, found {weight_map!r:.80}",
            hint="download the file again",
        )
    if not weight_map:
        raise CheckpointError(f"{name}: `weight_map` lists no tensor", hint="download the file again")
    outside = sorted({file for file in weight_map.values() if Path(file).name != file})
    if outside:
        raise CheckpointError(
            f"{name}: expected files in its folder, found files outside the folder: {', '.join(outside[:5])}",
            hint="do not use this checkpoint: an index that names other folders may be an attack",
        )
    return weight_map


def merge_headers(
    headers: Mapping[str, Mapping[str, Entry]], weight_map: WeightMap | None
) -> tuple[dict[str, tuple[str, Entry]], IndexDifference]:
    """Merge the headers of all files to `{tensor: (file name, entry)}` as the index says; without one (None), all
    tensors count. Entries of files that `headers` lacks are left out.
    """
    found = {name: file for file, entries in headers.items() for name in entries}
    if weight_map is None:
        return {name: (file, headers[file][name]) for name, file in found.items()}, IndexDifference()
    listed = {name: file for name, file in weight_map.items() if file in headers}
    merged = {name: (file, headers[file][name]) for name, file in listed.items() if name in headers[file]}
    return merged, IndexDifference(
        absent={name: file for name, file in listed.items() if name not in merged},
        unlisted={name: file for name, file in found.items() if name not in weight_map},
        repeated={
            name: file
            for file, entries in headers.items()
            for name in entries
            if name in merged and merged[name][0] != file
        },
    )


def raise_problems(problems: list[str], where: str, hint: str) -> None:
    """Raise CheckpointError with one line for each problem, if there is any."""
    if problems:
        lines = [f"{len(problems)} problems in the checkpoint {where}:", *(f"  {line}" for line in problems)]
        raise CheckpointError("\n".join(lines), hint=hint)


def header_problems(file: str, error: HeaderError) -> list[str]:
    """Lines on the header of one file."""
    return [f"{file}: {problem}" for problem in error.problems]
