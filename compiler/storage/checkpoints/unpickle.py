"""Weights that exist only as pytorch_model*.bin, rewritten once as safetensors.

The files are pickles. They are loaded with `weights_only=True`, which builds only tensors and plain containers, and
memory-mapped, so that a file larger than memory can be rewritten. Needs torch.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.model.dtypes import TORCH
from compiler.storage.checkpoints.header import HeaderError, read_header
from compiler.storage.files.digest import digest_json
from compiler.storage.files.writer import RankFileWriter, file_order

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_DAMAGED = (RuntimeError, EOFError, ValueError, OSError, LookupError, AttributeError, TypeError, AssertionError)
"""Exceptions of torch.load for a damaged file, besides UnpicklingError."""

_CHUNK = 4 << 20
"""Elements written at a time."""


def rewrite(files: Sequence[Path], scratch: Path) -> list[Path]:
    """Rewrite `files` as safetensors below `scratch`, if they are not there yet; the new files, in the same order.

    Their folder is named by a digest of path, size, modification time and inode of the originals.
    Raises CheckpointError: a file is missing, is no state dict of tensors, or needs more than `weights_only` builds.
    """
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{files[0].parent} lacks {', '.join(missing)}", hint="download the files named above again"
        )
    facts = []
    for path in files:
        stat = path.stat()
        facts.append([str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    folder = scratch / f"unpickled-{digest_json(facts)[7:39]}"
    return [_rewrite(path, folder / f"{path.stem}.safetensors") for path in files]


def _rewrite(source: Path, target: Path) -> Path:
    if target.exists():
        try:
            read_header(target)
        except HeaderError:
            target.unlink()
        else:
            return target
    tensors = file_order(list(_load(source).items()), lambda item: item[1].nbytes)
    planned = [(name, _spelling(tensor, source), tuple(tensor.shape)) for name, tensor in tensors]
    with RankFileWriter(target, planned) as writer:
        for _, tensor in tensors:
            flat = tensor.detach().contiguous().reshape(-1)
            for begin in range(0, flat.numel(), _CHUNK):
                writer.append(_bytes(flat[begin : begin + _CHUNK]))
    return target


def _load(source: Path) -> dict[str, Tensor]:
    import torch

    try:
        try:
            state = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            # Files of torch before 1.6 are not zip archives and cannot be mapped.
            state = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} holds more than tensors, so it is not loaded: {str(error).splitlines()[0]}",
            hint="use a revision of the model with safetensors files",
        ) from None
    except _DAMAGED as error:
        raise CheckpointError(
            f"{source} cannot be read as a torch file: {type(error).__name__}: {error}",
            hint="download the file again, or use a revision of the model with safetensors files",
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _not_a_map(source, state)
    return state


def _not_a_map(source: Path, state: object) -> CheckpointError:
    """Error for a file with something else than a map of tensors, such as the whole state of a training."""
    import torch

    expected = f"{source}: expected a map from names to tensors, found"
    if not isinstance(state, dict):
        return CheckpointError(f"{expected} {type(state).__name__}", hint="use the file that `save_pretrained` wrote")
    inner = [
        str(key)
        for key, value in state.items()
        if isinstance(value, dict) and value and all(isinstance(one, torch.Tensor) for one in value.values())
    ]
    if inner:
        others = [str(key) for key in state if str(key) != inner[0]]
        beside = f", beside {', '.join(f'`{key}`' for key in others[:5])}" if others else ""
        return CheckpointError(
            f"{expected} such a map under `{inner[0]}`{beside}",
            hint=f"save that map by itself: `torch.save(torch.load({source.name!r})[{inner[0]!r}], {source.name!r})`",
        )
    wrong = next(f"`{key}`: {type(value).__name__}" for key, value in state.items() if not torch.is_tensor(value))
    return CheckpointError(
        f"{expected} {wrong}", hint="use the file that `save_pretrained` wrote, without the optimizer's state"
    )


def _spelling(tensor: Tensor, source: Path) -> str:
    import torch

    names = {getattr(torch, name): spelled for spelled, name in TORCH.items()}
    if tensor.dtype not in names:
        raise CheckpointError(
            f"{source}: expected tensors of {', '.join(names.values())}, found one of {tensor.dtype}",
            hint="use a revision of the model with safetensors files",
        )
    return names[tensor.dtype]


def _bytes(flat: Tensor) -> memoryview:
    import torch

    return flat.view(torch.uint8).numpy().data
