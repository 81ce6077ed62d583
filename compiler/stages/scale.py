"""From maxima to scales: what rows and columns are multiplied by on their way to integers, before any is converted.

The result is a small safetensors file of canonical tensors (`layers.3.attn.q.scale`, ...), which depends on the scheme
and alpha but not on tp or target, and stands beside those of the checkpoint when the ranks are planned:

    {role}.columns   [experts, in]     s of smoothing; absent where there is none
    {role}.steps     [experts, out]    integers a unit of W * columns
    {role}.scale     [experts, out]    what an integer is worth in the smoothed layer
    weight, bias                       of norms, biases and routers that smoothing changes

A row that smoothing divides keeps its integers: only its scale is divided. Rows must be seen whole before one of them
is rounded, and a rank of a row-parallel layer has parts of rows only: so the weights are read once here, under the
ceiling of memory, and a second time when they are converted.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from compiler.errors import CheckpointError, MemoryCeilingError
from compiler.ir.layout import join_rows
from compiler.ir.lazy import ITEMSIZE, whole
from compiler.ir.ops import run
from compiler.ir.roles import TensorId, axis_sizes, linear_axes
from compiler.quant import int8
from compiler.quant.groups import Factors, Maxima, apply, layer_factors, layer_scales, quantised_roles
from compiler.quant.planned import PREFIX, Smoothing, smoothed
from compiler.store import spill
from compiler.store.cast import cast_bits
from compiler.store.checkpoint import Checkpoint, SourceTensor
from compiler.store.gather import Cut, Gather
from compiler.store.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.ir.config import LayerKind, ModelConfig
    from compiler.ir.lazy import Lazy
    from compiler.quant.schemes import Scheme
    from compiler.store.gather import Block

    Values = NDArray[np.float32]

VERSION = 1
RESULT = "scales.safetensors"
BLOCK = 4 << 20
_BUFFERS = 10
"""Blocks of memory that one of bfloat16 takes: its bits, the window, and as float32 values, product, magnitude."""


def make_scales(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    out: Path,
    *,
    scheme: Scheme,
    alpha: float = 0.5,
    smoothing: Smoothing = "folded",
    maxima: Mapping[str, Values] | None = None,
    max_memory: int = 1 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write RESULT, the tensors of `quant/planned.py`, into the folder `out`, for a `scheme` with int8 weights.

    `tensors`: the canonical tensors in `checkpoint`. `maxima`: what `calibrate` found, where the scheme smooths.
    `progress(bytes of weights read, in all)`.
    Raises MemoryCeilingError, CheckpointError (NaN or infinite weights), UsageError (alpha), DiskFullError.
    """
    wanted = {
        TensorId(role, "weight", layer): _matrix(config, TensorId(role, "weight", layer), tensors)
        for layer, kind in enumerate(config.layer_kinds)
        for role in quantised_roles(config, kind)
    }
    block = min(BLOCK, max_memory // _BUFFERS)
    widest = max(ITEMSIZE[m.source_dtype] * m.shape[-1] for m in wanted.values())
    if widest > block:
        raise MemoryCeilingError(
            f"one row takes {widest:,} bytes, and {_BUFFERS} of them more than the ceiling of {max_memory:,} bytes",
            hint=f"pass `--max-memory` of at least {_BUFFERS * widest}",
        )
    sizes = axis_sizes(config)
    total, done = sum(prod(m.shape) * ITEMSIZE[m.source_dtype] for m in wanted.values()), 0
    found: dict[str, Values] = {}
    with checkpoint.opened() as files:
        gather = Gather(checkpoint.tensors, files, block)
        for layer, kind in enumerate(config.layer_kinds):
            factors = _factors(config, kind, layer, maxima, alpha, smoothing) if scheme.search == "smooth" else {}
            for role in quantised_roles(config, kind):
                tensor = TensorId(role, "weight", layer)
                lead, rows, inner = linear_axes(role)
                factor = factors.get(role, Factors())
                columns = None
                if factor.columns is not None:
                    columns = np.broadcast_to(factor.columns, [sizes[axis] for axis in (*lead, *inner)])
                    found[str(TensorId(role, "columns", layer))] = np.ascontiguousarray(columns)
                largest = _row_maxima(gather, wanted[tensor], columns, block).reshape(
                    [sizes[axis] for axis in (*lead, *rows)]
                )
                if not np.isfinite(largest).all():
                    sources = sorted({piece.source for piece in tensors[tensor].pieces})
                    raise CheckpointError(
                        f"NaN or infinite values in {', '.join(sources)} of the checkpoint",
                        hint="download it again; if its digests are right, it is damaged at its source",
                    )
                divisor = np.float32(1) if factor.divisor is None else factor.divisor
                if scheme.weight_scales == "tensor":
                    # The largest of the divided rows, in terms of each undivided one.
                    largest = np.full(largest.shape, (largest / divisor).max(), np.float32) * divisor
                found[str(TensorId(role, "steps", layer))] = int8.steps(largest)
                found[str(TensorId(role, "scale", layer))] = int8.scales(largest) / divisor
                done += prod(wanted[tensor].shape) * ITEMSIZE[wanted[tensor].source_dtype]
                if progress is not None:
                    progress(done, total)
            found |= _changed(config, layer, factors, tensors, gather, block)
    _save(found, out / RESULT)


def beside(
    tensors: Mapping[TensorId, Lazy], checkpoint: Checkpoint, file: Path
) -> tuple[dict[TensorId, Lazy], Checkpoint]:
    """The canonical tensors and the checkpoint, with those of `file` (RESULT) among them or in their place."""
    merged, sources = dict(tensors), dict(checkpoint.tensors)
    for name, entry in read_header(file).items():
        source = f"{PREFIX}{name}"
        _, layer, rest = name.split(".", 2)
        role, part = rest.rsplit(".", 1)
        sources[source] = SourceTensor(source, entry.dtype, entry.shape, file, entry.offset, entry.nbytes)
        merged[TensorId(role, part, int(layer))] = whole(source, entry.shape, entry.dtype)
    return merged, Checkpoint(checkpoint.folder, checkpoint.config, sources)


def _factors(
    config: ModelConfig,
    kind: LayerKind,
    layer: int,
    maxima: Mapping[str, Values] | None,
    alpha: float,
    smoothing: Smoothing,
) -> dict[str, Factors]:
    """Of smoothing."""
    assert maxima is not None, "a scheme that smooths needs maxima"
    own = {
        role: Maxima(maxima[f"layers.{layer}.{role}.inputs"], maxima[f"layers.{layer}.{role}.columns"])
        for role in quantised_roles(config, kind)
    }
    found = smoothed(config, kind, smoothing)
    return layer_factors(config, found, layer_scales(config, found, own, alpha))[0]


def _matrix(config: ModelConfig, tensor: TensorId, tensors: Mapping[TensorId, Lazy]) -> Lazy:
    """A weight as [experts, out, in]."""
    return run(join_rows((tensor,), axis_sizes(config)), [tensors[tensor]])[0]


def _row_maxima(gather: Gather, matrix: Lazy, columns: Values | None, limit: int) -> Values:
    """Largest |W * columns| of every row: [experts, out]."""
    largest = np.empty(matrix.shape[:-1], np.float32)
    flat = None if columns is None else columns.reshape(*matrix.shape[:-2], matrix.shape[-1])
    cut = Cut(matrix, limit)
    for block in cut.blocks():
        values = _float32(gather, cut, block)
        *lead, rows, _ = (slice(b, b + n) for b, n in zip(block.begin, block.shape, strict=True))
        if flat is not None:
            values = values * flat[tuple(lead)][..., None, :]
        largest[(*lead, rows)] = np.abs(values).max(-1)
    return largest


def _changed(
    config: ModelConfig,
    layer: int,
    factors: Mapping[str, Factors],
    tensors: Mapping[TensorId, Lazy],
    gather: Gather,
    limit: int,
) -> dict[str, Values]:
    """The small tensors of a layer that smoothing changes, as they are afterwards."""
    quantised = set(quantised_roles(config, config.layer_kinds[layer]))
    found = {}
    for role, factor in factors.items():
        for part in ("weight", "bias"):
            tensor = TensorId(role, part, layer)
            # Of layers that are joined one bias may be divided: all are written, in one dtype.
            if tensor not in tensors or (part == "weight" and role in quantised):
                continue
            lazy = tensors[tensor]
            values, cut = np.empty(lazy.shape, np.float32), Cut(lazy, limit)
            for block in cut.blocks():
                place = tuple(slice(b, b + n) for b, n in zip(block.begin, block.shape, strict=True))
                values[place] = _float32(gather, cut, block)
            found[str(tensor)] = apply(config, role, part, values, factor)
    return found


def _float32(gather: Gather, cut: Cut, block: Block) -> Values:
    dtype = cut.tensor.source_dtype
    bits = np.empty(block.shape, f"u{ITEMSIZE[dtype]}")
    gather.fill(cut, block, bits)
    out = np.empty(bits.size, np.uint32)
    cast_bits(bits.reshape(-1), dtype, out, "F32")
    return out.view(np.float32).reshape(block.shape)


def _save(found: Mapping[str, Values], path: Path) -> None:
    from safetensors.numpy import save

    with spill.written(path) as append:
        append(save({name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}))
