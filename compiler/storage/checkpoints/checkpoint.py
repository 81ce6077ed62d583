"""A Hugging Face checkpoint: config.json and the place of each tensor's bytes. No tensor is read here.

A folder holds its weights in one of four forms; the first one found counts:

    model.safetensors                                      one file
    model.safetensors.index.json, model-00001-of-...       {"weight_map": {tensor: file}}
    pytorch_model.bin                                      pickled: rewritten once as safetensors (unpickle.py)
    pytorch_model.bin.index.json, pytorch_model-00001-...  the same, by index
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import CheckpointError
from compiler.model.lazy import ITEMSIZE
from compiler.storage.checkpoints.header import HeaderError, TensorEntry, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of the checkpoint, row-major: `nbytes` bytes at byte `offset` of `file` (None: only its header is
    known)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path | None
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `folder` has the small files, such as the tokenizer's; `config`: config.json; `tensors` by
    name. `own`: for a quantized checkpoint, the scales of each weight by its name, [out, groups]. `notes`: sentences
    about what is left out of it, and what was decided where it contradicts itself.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, SourceTensor]
    own: dict[str, SourceTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files with weights, sorted."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values() if tensor.file is not None}))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @contextmanager
    def opened(self) -> Iterator[dict[str, int]]:
        """Open file descriptors by tensor name; closed at the end of the context."""
        with ExitStack() as stack:
            files = {path: os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self.files}
            for descriptor in files.values():
                stack.callback(os.close, descriptor)
            yield {tensor.name: files[tensor.file] for tensor in self.tensors.values() if tensor.file}


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a checkpoint. Raises CheckpointError if it is missing or not a JSON object."""
    return _read_object(
        folder / "config.json", hint="pass a folder with config.json and safetensors files as `--model`"
    )


def open_checkpoint(folder: Path, scratch: Path | None = None) -> Checkpoint:
    """Read config.json and every header, and check the headers against each other and the index.

    `scratch`: folder in which weights that exist only as pytorch_model*.bin are rewritten as safetensors, once.
    Raises CheckpointError with all problems.
    """
    config = read_config(folder)
    if (folder / SINGLE).is_file():
        return Checkpoint(folder, config, _read_files({SINGLE: folder / SINGLE}, None))
    if (folder / INDEX).is_file():
        weight_map = read_weight_map(folder / INDEX)
        files = {name: folder / name for name in sorted(set(weight_map.values()))}
        return Checkpoint(folder, config, _read_files(files, weight_map))
    pickled = _pickled_files(folder)
    if pickled:
        if scratch is None:
            raise CheckpointError(
                f"expected safetensors files in {folder}, found the weights only as {', '.join(pickled)}",
                hint="convert them to safetensors first, or pass a cache folder to convert them into",
            )
        from compiler.storage.checkpoints.unpickle import rewrite

        files = {path.name: path for path in rewrite([folder / name for name in pickled], scratch)}
        return Checkpoint(folder, config, _read_files(files, None))
    found = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"no weights in {folder}: expected {SINGLE}, {INDEX} or {PICKLED}, found {', '.join(found[:20])}",
        hint="download the safetensors files of the model into this folder",
    )


def from_headers(
    config: dict[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    folder: Path = Path(),
) -> Checkpoint:
    """Make a checkpoint to plan with, from names, dtypes and shapes alone: `{name: (dtype, shape)}`.

    Raises CheckpointError for unknown dtypes.
    """
    unknown = sorted({dtype for dtype, _ in tensors.values()} - set(ITEMSIZE))
    if unknown:
        raise CheckpointError(
            f"expected tensors of {', '.join(ITEMSIZE)}, found {', '.join(unknown)}",
            hint="use a revision of the model in another format",
        )
    return Checkpoint(
        folder,
        config,
        {
            name: SourceTensor(name, dtype, tuple(shape), None, 0, prod(shape) * ITEMSIZE[dtype])
            for name, (dtype, shape) in tensors.items()
        },
    )


def read_weight_map(index: Path) -> dict[str, str]:
    """Read `{tensor: file name}` from an index file. Raises CheckpointError if it is none, or names other folders."""
    return parse_weight_map(_read_object(index, hint="download the file again"), index.name)


def parse_weight_map(index: dict[str, Any], name: str) -> dict[str, str]:
    """Check and return `weight_map` of a parsed index (see read_weight_map); `name`: the index's name in errors."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(
            f"{name}: expected `weight_map`, a map from tensors to files, found {weight_map!r:.80}",
            hint="download the file again",
        )
    outside = sorted({file for file in weight_map.values() if Path(file).name != file})
    if outside:
        raise CheckpointError(
            f"{name}: expected files in its folder, found files outside the folder: {', '.join(outside[:5])}",
            hint="do not use this checkpoint: an index that names other folders may be an attack",
        )
    return weight_map


def merge_headers(
    headers: Mapping[str, Mapping[str, TensorEntry]], weight_map: Mapping[str, str] | None, problems: list[str]
) -> dict[str, tuple[str, TensorEntry]]:
    """Merge the headers of all files to `{tensor: (file name, entry)}`, checked against each other and the index.

    Adds to `problems`: tensors in two files, tensors that the index puts into a file whose header lacks them.
    """
    merged: dict[str, tuple[str, TensorEntry]] = {}
    for file, entries in headers.items():
        for name, entry in entries.items():
            if name in merged:
                problems.append(f"`{name}` is in both {merged[name][0]} and {file}")
            merged[name] = (file, entry)
    for name, file in sorted((weight_map or {}).items()):
        if file in headers and name not in headers[file]:
            problems.append(f"the index puts `{name}` into {file}, whose header lacks it")
    return merged


def _read_files(files: Mapping[str, Path], weight_map: dict[str, str] | None) -> dict[str, SourceTensor]:
    problems: list[str] = []
    headers: dict[str, dict[str, TensorEntry]] = {}
    for name, path in files.items():
        try:
            headers[name] = read_header(path)
        except FileNotFoundError:
            problems.append(f"{name}: missing, the index expects it")
        except HeaderError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    merged = merge_headers(headers, weight_map, problems)
    if problems:
        folder = next(iter(files.values())).parent
        raise CheckpointError(
            "\n".join([f"{len(problems)} problems in the checkpoint {folder}:", *(f"  {line}" for line in problems)]),
            hint="download the files named above again, and compare their sizes with those of the source",
        )
    return {
        name: SourceTensor(name, entry.dtype, entry.shape, files[file], entry.offset, entry.nbytes)
        for name, (file, entry) in merged.items()
    }


def _pickled_files(folder: Path) -> list[str]:
    if (folder / PICKLED).is_file():
        return [PICKLED]
    if (folder / PICKLED_INDEX).is_file():
        return sorted(set(read_weight_map(folder / PICKLED_INDEX).values()))
    return []


def _read_object(path: Path, *, hint: str) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing", hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint="download the file again") from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(parsed).__name__}", hint=hint)
    return parsed
