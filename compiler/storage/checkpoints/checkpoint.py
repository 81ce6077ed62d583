"""A Hugging Face checkpoint: config.json and the place of each tensor's bytes. No tensor is read here.

A folder holds its weights in one of four forms; the first one found counts:

    model.safetensors               one file
    model.safetensors.index.json    {"weight_map": {tensor: file}}: the files that it names (index.py)
    pytorch_model.bin               pickled: rewritten once as safetensors (unpickle.py)
    pytorch_model.bin.index.json    the same, by index
"""

from __future__ import annotations

import glob
import json
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import CheckpointError
from compiler.model.lazy import ITEMSIZE
from compiler.storage.checkpoints.diagnosis import diagnosed, names_below, notes_on
from compiler.storage.checkpoints.header import HeaderError, TensorEntry, read_header
from compiler.storage.checkpoints.index import (
    FORMS,
    INDEX,
    NO_DIFFERENCE,
    PICKLED,
    PICKLED_INDEX,
    IndexDifference,
    WeightMap,
    form_of,
    header_problems,
    merge_headers,
    raise_problems,
    read_weight_map,
)
from compiler.storage.checkpoints.lfs import refuse_pointers
from compiler.storage.files.cast import cast_bits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray


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

    def bits(self, dtype: str | None = None) -> NDArray[Any]:
        """Its elements as flat unsigned integers, mapped from the file; cast where `dtype` is another than its own."""
        assert self.file is not None
        mapped = np.memmap(self.file, f"u{ITEMSIZE[self.dtype]}", "r", self.offset, (prod(self.shape),))
        if dtype is None or dtype == self.dtype:
            return mapped
        out = np.empty(mapped.size, f"u{ITEMSIZE[dtype]}")
        cast_bits(mapped, self.dtype, out, dtype)
        return out


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `folder` has the small files, such as the tokenizer's; `config`: config.json; `tensors` by
    name. `own`: for a quantized checkpoint, the scales of each weight by its name, [out, groups]. `notes`: sentences
    about what is left out of it, and what was decided where it contradicts itself. `difference`: of its index from its
    files; `declared`: the file that says how it is quantized, where that is not config.json. `whole`: config.json in
    `folder`, of the multimodal model that this is the text part of; None for a whole model.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, SourceTensor]
    own: dict[str, SourceTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    difference: IndexDifference = NO_DIFFERENCE
    declared: Path | None = None
    whole: dict[str, Any] | None = None

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


Read = tuple[dict[str, SourceTensor], IndexDifference]
"""Tensors of some files by name, and the difference of the index from these files."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a checkpoint. Raises CheckpointError if it is missing or not a JSON object."""
    path = folder / "config.json"
    hint = "pass a folder with config.json and safetensors files as `--model`"
    if not path.is_file():
        names = names_below(folder) if folder.is_dir() else []
        raise diagnosed("config.json", str(folder), names, folder if names else None, hint)
    refuse_pointers([path])
    return read_object(path, hint=hint)


def open_checkpoint(folder: Path, scratch: Path | None = None) -> Checkpoint:
    """Read config.json and every header, and check the headers against each other and the index.

    `scratch`: folder in which weights that exist only as pytorch_model*.bin are rewritten as safetensors, once.
    Raises CheckpointError with all problems.
    """
    config = read_config(folder)
    form = form_of(path.name for path in folder.iterdir() if path.is_file())
    if not form:
        raise diagnosed(
            "weights",
            str(folder),
            names_below(folder),
            folder,
            f"download the weights of the model into this folder: expected one of {', '.join(FORMS)}",
        )
    weight_map = read_weight_map(folder / form) if form in (INDEX, PICKLED_INDEX) else None
    names = sorted(set(weight_map.values())) if weight_map is not None else [form]
    files = {name: folder / name for name in names}
    refuse_pointers(files.values())
    if form in (PICKLED, PICKLED_INDEX):
        files = _rewritten(files, scratch)
    tensors, difference = _read_files(files, weight_map)
    notes = (*difference.notes, *notes_on(path.name for path in folder.iterdir()))
    return Checkpoint(folder, config, tensors, difference=difference, notes=notes)


def _rewritten(files: Mapping[str, Path], scratch: Path | None) -> dict[str, Path]:
    """Safetensors files for pickles, by the names of the pickles. Raises CheckpointError."""
    if scratch is None:
        raise CheckpointError(
            f"expected safetensors files in {next(iter(files.values())).parent}, found the weights only as "
            f"{', '.join(files)}",
            hint="convert them to safetensors first, or pass a cache folder to convert them into",
        )
    from compiler.storage.checkpoints.unpickle import rewrite

    return dict(zip(files, rewrite(list(files.values()), scratch), strict=True))


def from_headers(
    config: dict[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    folder: Path = Path(),
    difference: IndexDifference = NO_DIFFERENCE,
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
        difference=difference,
        notes=difference.notes,
    )


def _read_files(files: Mapping[str, Path], weight_map: WeightMap | None) -> Read:
    problems: list[str] = []
    headers: dict[str, dict[str, TensorEntry]] = {}
    for name, path in files.items():
        try:
            headers[name] = read_header(path)
        except FileNotFoundError:
            problems.append(f"{name}: {_missing(path)}, the index expects it")
        except OSError as error:
            problems.append(f"{name}: cannot be read: {error.strerror}")
        except HeaderError as error:
            problems += header_problems(name, error)
    hint = "download the files named above again, and compare their sizes with those of the source"
    raise_problems(problems, str(next(iter(files.values())).parent), hint)
    merged, difference = merge_headers(headers, weight_map)
    tensors = {
        name: SourceTensor(name, entry.dtype, entry.shape, files[file], entry.offset, entry.nbytes)
        for name, (file, entry) in merged.items()
    }
    return tensors, difference


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"missing (a link to {path.readlink()}, which does not exist)"
    begun = sorted(other.name for other in path.parent.glob(f"{glob.escape(path.name)}.*"))
    return f"missing (its download has not ended: {begun[0]})" if begun else "missing"


def read_object(path: Path, *, hint: str) -> dict[str, Any]:
    """Read a JSON object in any Unicode encoding, with or without BOM. Raises CheckpointError."""
    try:
        parsed = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint="download the file again") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}", hint="check its permissions, and that it is a file"
        ) from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(parsed).__name__}", hint=hint)
    return parsed
