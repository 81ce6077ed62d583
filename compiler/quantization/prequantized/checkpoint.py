"""Reader of quantized checkpoints, which dequantizes their linear layers.

The formats are in `formats.py`. The weights are rewritten once, in the dtype of config.json, as pickles are
(`storage/checkpoints/unpickle.py`). Casting to that dtype moves them by less than half an integer, so the checkpoint's
own scales (`Checkpoint.own`) round them to the same integers again: a quantized checkpoint is repacked for a target
without further loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import CheckpointError, MemoryCeilingError, RefusedError
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE, Lazy
from compiler.model.read import stored_dtype
from compiler.quantization.format import Values
from compiler.quantization.formats import fp8
from compiler.quantization.prequantized.formats import CACHE_SCALES, TAKE_ORIGINAL, Arrays, Packed
from compiler.quantization.request import Quant
from compiler.quantization.schemes import SCHEMES
from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor
from compiler.storage.checkpoints.header import HeaderError, read_header
from compiler.storage.checkpoints.index import shown
from compiler.storage.files.cast import cast_bits
from compiler.storage.files.digest import digest_json
from compiler.storage.files.writer import RankFileWriter

_ROWS = 256
"""Limit of rows of W to unpack at a time; a multiple of 8, the integers in a word."""
_COPIES = 12
"""Float32 copies of these rows while they are unpacked: integers split, ordered, multiplied, transposed, cast."""


def after_rewrite(checkpoint: Checkpoint, how: Packed) -> Checkpoint:
    """Checkpoint after `rewrite`, for plans: its rewritten weights have no data yet. Raises RefusedError."""
    dtype = _dtype(checkpoint)
    cache = [name for name in checkpoint.tensors if name.rpartition(".")[2] in CACHE_SCALES]
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in set(cache)}
    for module in _modules(checkpoint, how):
        shape = how.shape(tensors[f"{module}{how.weight}"].shape)
        if how.group and shape[-1] % how.group:
            raise RefusedError(
                f"`{module}` needs columns that divide into groups of {how.group}; found {shape[-1]}",
                hint=TAKE_ORIGINAL,
            )
        for suffix in (how.weight, *how.others):
            tensors.pop(f"{module}{suffix}", None)
        name = f"{module}{how.written}"
        tensors[name] = SourceTensor(name, dtype, shape, None, 0, prod(shape) * ITEMSIZE[dtype])
    if not cache:
        return replace(checkpoint, tensors=tensors)
    note = f"scales of a quantized KV cache are left out, {shown(cache)}: `--kv-cache` computes its own"
    return replace(checkpoint, tensors=tensors, notes=(*checkpoint.notes, note))


def rewrite(
    checkpoint: Checkpoint,
    how: Packed,
    scratch: Path,
    max_memory: int = 1 << 30,
    progress: Callable[[int, int, str], None] | None = None,
) -> Checkpoint:
    """Checkpoint with floating-point weights, which are written into a folder of `scratch` unless an earlier run has.

    `max_memory`: ceiling of unpacked rows, in bytes, besides the mapped tensors of one module. `progress(bytes written,
    total, unit)`. Raises CheckpointError (zero points or an order that contradict config.json), RefusedError,
    MemoryCeilingError, DiskFullError.
    """
    facts = [[str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino] for p in checkpoint.files]
    folder = scratch / f"unpacked-{digest_json([how.name, facts])[7:39]}"
    after = after_rewrite(checkpoint, how)
    modules = _modules(checkpoint, how)
    names = [f"{module}{how.written}" for module in modules]
    weights = {name: after.tensors[name] for name in names}
    files = folder / "weights.safetensors", folder / "scales.safetensors"
    if not all(map(_whole, files)):
        planned = [(name, t.dtype, t.shape) for name, t in weights.items()]
        _write(checkpoint, how, modules, planned, files, max_memory, progress)
    tensors, own = dict(after.tensors), {}
    for name, entry in read_header(files[0]).items():
        tensors[name] = SourceTensor(name, entry.dtype, entry.shape, files[0], entry.offset, entry.nbytes)
    for name, entry in read_header(files[1]).items():
        own[name] = SourceTensor(name, entry.dtype, entry.shape, files[1], entry.offset, entry.nbytes)
    return replace(after, tensors=tensors, own=own if how.scheme else {})


def checked(quant: Quant, how: Packed | None) -> Quant:
    """Check `quant` for a checkpoint quantized as `how`; return it without a search, since its integers are kept.

    Without a scheme the weights are dequantized. Raises RefusedError for schemes that would round a second time.
    """
    if how is None or quant.scheme is None:
        return quant
    own = SCHEMES.get(how.scheme)
    asked = (quant.scheme.name, quant.scheme.weight_scales)
    if own is None or asked != (own.name, own.weight_scales) or quant.group not in (None, own.group):
        per = f"group of {own.group}" if own and own.group else own.weight_scales if own else ""
        keeps = f"`--quant {own.name}` with a scale per {per} keeps its integers, " if own else ""
        raise RefusedError(
            f"the checkpoint is quantized already, by {how.name}; `{quant.scheme.name}` with a scale per "
            f"{f'group of {quant.group}' if quant.group else quant.scheme.weight_scales} would round it a second time",
            hint=f"{keeps}without `--quant` its weights are dequantized; or {TAKE_ORIGINAL}",
        )
    return replace(quant, scheme=replace(quant.scheme, search=""), group=own.group)


def own_scales(checkpoint: Checkpoint, matrix: Lazy) -> Values:
    """The checkpoint's scales [..., out, groups] of `matrix` [..., out, in]. Raises RefusedError."""
    found: Values | None = None
    for piece in matrix.pieces:
        width = checkpoint.tensors[piece.source].shape[-1]
        if piece.source not in checkpoint.own or piece.strides[-1] != 1 or piece.shape[-1] != width:
            raise RefusedError(
                f"`{piece.source}` has no integers that could be kept row by row",
                hint=f"leave `--quant` out; or {TAKE_ORIGINAL}",
            )
        own = checkpoint.own[piece.source]
        assert own.file is not None
        index = np.full(piece.shape[:-1], piece.start)
        for axis, (size, stride) in enumerate(zip(piece.shape[:-1], piece.strides[:-1], strict=True)):
            index += (np.arange(size) * stride).reshape([-1 if i == axis else 1 for i in range(index.ndim)])
        scales = np.memmap(own.file, "<f4", "r", own.offset, own.shape)[index // width]
        if found is None:
            found = np.zeros((*matrix.shape[:-1], scales.shape[-1]), np.float32)
        found[tuple(slice(a, a + n) for a, n in zip(piece.at[:-1], piece.shape[:-1], strict=True))] = scales
    assert found is not None
    return found


def _write(
    checkpoint: Checkpoint,
    how: Packed,
    modules: list[str],
    weights: list[tuple[str, str, tuple[int, ...]]],
    files: tuple[Path, Path],
    max_memory: int,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    at_once = [_rows_at_once(name, shape[-1], max_memory) for name, _, shape in weights]
    # The first rows show the number of groups, which the header of the scales needs before any data is written.
    few = (_unpacked(how, module, _arrays(checkpoint, how, module), slice(0, 8)) for module in modules)
    scales = [
        (name, "F32", (prod(shape[:-1]), own.shape[1])) for (name, _, shape), (_, own) in zip(weights, few, strict=True)
    ]
    total, done = sum(prod(shape) * ITEMSIZE[dtype] for _, dtype, shape in weights), 0
    with RankFileWriter(files[0], weights) as writer, RankFileWriter(files[1], scales) as beside:
        for module, (_, dtype, shape), step in zip(modules, weights, at_once, strict=True):
            arrays, rows = _arrays(checkpoint, how, module), prod(shape[:-1])
            for begin in range(0, rows, step):
                values, own = _unpacked(how, module, arrays, slice(begin, min(begin + step, rows)))
                bits = np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(-1)
                out = np.empty(bits.size, f"u{ITEMSIZE[dtype]}")
                cast_bits(bits, "F32", out, dtype)
                writer.append(out.data.cast("B"))
                beside.append(np.ascontiguousarray(own, np.float32).data.cast("B"))
                done += out.nbytes
                if progress is not None:
                    progress(done, total, "bytes")


def _rows_at_once(name: str, columns: int, max_memory: int) -> int:
    row = 4 * _COPIES * columns
    if 8 * row > max_memory:
        raise MemoryCeilingError(
            f"unpacking 8 rows of `{name}` takes {8 * row:,} bytes; the ceiling is {max_memory:,} bytes",
            hint=f"pass `--max-memory` of at least {8 * row}",
        )
    return min(max_memory // row // 8 * 8, _ROWS)


def _unpacked(how: Packed, module: str, arrays: Arrays, rows: slice) -> tuple[Values, Values]:
    try:
        return how.rows(arrays, rows)
    except ValueError as error:
        raise CheckpointError(f"`{module}`: {error}", hint=TAKE_ORIGINAL) from None


def _modules(checkpoint: Checkpoint, how: Packed) -> list[str]:
    """Quantized modules, in the order of the checkpoint's names."""
    found = [name.removesuffix(how.weight) for name in checkpoint.tensors if name.endswith(how.weight)]
    for part in how.required:
        lacking = [module for module in found if f"{module}{part}" not in checkpoint.tensors]
        if lacking:
            raise CheckpointError(
                f"{how.name}: expected `{part[1:]}` beside every `{how.weight[1:]}`; {len(lacking)} of {len(found)} "
                f"modules have none, the first is `{lacking[0]}`",
                hint=f"checkpoints without zero points are not read: {TAKE_ORIGINAL}",
            )
    return [m for m in found if f"{m}{how.others[0]}" in checkpoint.tensors]


def _arrays(checkpoint: Checkpoint, how: Packed, module: str) -> Arrays:
    found = {}
    for suffix in (how.weight, *how.others):
        tensor = checkpoint.tensors.get(f"{module}{suffix}")
        if tensor is None:
            continue
        if tensor.file is None:
            raise CheckpointError(
                f"expected the data of `{tensor.name}`; found its header only", hint="fetch the model with its weights"
            )
        kinds = {"I32": "<i4", "I8": "i1", "U8": "u1", fp8.FORMAT.dtype: "u1"}
        kind = kinds.get(tensor.dtype, f"u{ITEMSIZE[tensor.dtype]}")
        bits = np.memmap(tensor.file, kind, "r", tensor.offset, tensor.shape or (1,))
        found[suffix] = bits if tensor.dtype in kinds else _float32(bits, tensor.dtype)
    return found


def _float32(bits: NDArray[Any], dtype: str) -> Values:
    out = np.empty(bits.size, np.uint32)
    cast_bits(np.ascontiguousarray(bits).reshape(-1), dtype, out, "F32")
    return out.view(np.float32).reshape(bits.shape)


def _dtype(checkpoint: Checkpoint) -> str:
    """Safetensors' name of the dtype in config.json, else of the tensors that are not quantized."""
    hf = checkpoint.config
    name = str(hf.get("dtype") or hf.get("torch_dtype") or stored_dtype(checkpoint.tensors)).removeprefix("torch.")
    return DTYPES.get(name, "F16")


def _whole(path: Path) -> bool:
    try:
        return path.exists() and read_header(path) is not None
    except HeaderError:
        path.unlink()
        return False
