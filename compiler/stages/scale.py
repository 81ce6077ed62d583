"""From maxima to scales: what rows and columns are multiplied by on their way to few bits, before any is converted.

The result is a safetensors file of canonical tensors (`layers.3.attn.q.scale`, ...), which depends on the scheme, on
alpha and on what the target's kernels want (`quant/scaling.py`), but not on tp, and stands beside those of the
checkpoint when the ranks are planned:

    {role}.columns          [experts, in]     s of smoothing; absent where there is none
    {role}.prequant         [experts, in]     1 / columns, where kernels multiply their inputs
    {role}.{other parts}                      `quant/parts.py`
    attn.k.cache_scale                        of keys and values, where the cache is quantised
    weight, bias                              of norms, biases and routers that smoothing changes

Rows must be seen whole before one of them is rounded, and a rank of a row-parallel layer has parts of rows only: so the
weights are read once here, under the ceiling of memory, and a second time when they are converted.
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
from compiler.quant import int4
from compiler.quant.groups import Factors, Maxima, apply, layer_factors, layer_scales, quantised_roles
from compiler.quant.parts import activation_parts, cache_scale, inverse, one_scale, rounded_up, weight_parts
from compiler.quant.scaling import PLAIN, Scaling
from compiler.store import spill
from compiler.store.cast import cast_bits
from compiler.store.checkpoint import Checkpoint, SourceTensor
from compiler.store.gather import Cut, Gather
from compiler.store.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.ir.config import LayerKind, ModelConfig
    from compiler.ir.lazy import Lazy
    from compiler.quant.schemes import Scheme
    from compiler.store.gather import Block

    Values = NDArray[np.float32]

VERSION = 2
RESULT = "scales.safetensors"
BLOCK = 4 << 20
_PREFIX = "scales/"
_BUFFERS = 10
"""Blocks of memory that one of bfloat16 takes: its bits, the window, and as float32 values, product, magnitude."""


def make_scales(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    out: Path,
    *,
    scheme: Scheme,
    scaling: Scaling = PLAIN,
    alpha: float = 0.5,
    maxima: Mapping[str, Values] | None = None,
    max_memory: int = 1 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write RESULT into the folder `out`.

    `tensors`: the canonical tensors in `checkpoint`. `maxima`: what `calibrate` found, where the scheme or the cache
    needs it. `progress(bytes of weights read, in all)`. Beside `max_memory`, the scales of one layer are in memory.
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
    total, done = sum(prod(m.shape) * ITEMSIZE[m.source_dtype] for m in wanted.values()), 0
    with checkpoint.opened() as files, spill.tensors(out / RESULT) as add:
        gather = Gather(checkpoint.tensors, files, block)
        for layer, kind in enumerate(config.layer_kinds):
            own = {t.role: matrix for t, matrix in wanted.items() if t.layer == layer}
            seen = _Seen(config, layer, maxima or {})
            factors = _factors(seen, kind, scaling, alpha) if scheme.search == "smooth" else {}
            columns = {role: s for role, of in factors.items() if (s := _whole_columns(config, role, of)) is not None}
            if scaling.divides == "inputs":
                # Kernels see 1 / s in the files' dtype: s is what that stands for.
                columns = {role: inverse(rounded_up(inverse(s))) for role, s in columns.items()}
            largest = {}
            for role, matrix in own.items():
                largest[role] = _largest(gather, scheme, config, role, matrix, columns.get(role), block)
                if not np.isfinite(largest[role]).all():
                    sources = sorted({piece.source for piece in matrix.pieces})
                    raise CheckpointError(
                        f"NaN or infinite values in {', '.join(sources)} of the checkpoint",
                        hint="download it again; if its digests are right, it is damaged at its source",
                    )
                done += prod(matrix.shape) * ITEMSIZE[matrix.source_dtype]
                if progress is not None:
                    progress(done, total)
            for tensor, values in _of_layer(seen, scheme, scaling, factors, columns, largest):
                add(str(tensor), values)
            for name, values in _changed(config, layer, factors, tensors, gather, block).items():
                add(name, values)


class _Seen:
    """What the calibration text did in one layer, by role."""

    def __init__(self, config: ModelConfig, layer: int, maxima: Mapping[str, Values]) -> None:
        self.config, self.layer, self._maxima = config, layer, maxima

    def __call__(self, role: str, what: str) -> Values:
        return self._maxima[f"layers.{self.layer}.{role}.{what}"]


def _of_layer(
    seen: _Seen,
    scheme: Scheme,
    scaling: Scaling,
    factors: Mapping[str, Factors],
    columns: Mapping[str, Values],
    largest: Mapping[str, Values],
) -> Iterator[tuple[TensorId, Values]]:
    """All parts of the quantised layers."""
    divisors = {role: of.divisor for role, of in factors.items() if of.divisor is not None}
    static = scheme.activations != "float" and scheme.activation_scales == "tensor"
    for role, rows in largest.items():
        lead, _, inner = linear_axes(role)
        together = scaling.with_role(role, tuple(largest))
        if scheme.weight_scales == "tensor":
            sharing = together if scaling.one_scale else (role,)
            rows = one_scale({one: largest[one] for one in sharing}, divisors, len(lead))[role]
        parts = weight_parts(scheme, rows, divisors.get(role), len(lead))
        reads = gives = 0.0
        if static:
            reads = max(float((seen(one, "inputs") / columns.get(one, np.float32(1))).max()) for one in together)
            gives = max(float((seen(one, "outputs") / divisors.get(one, np.float32(1))).max()) for one in together)
        parts |= activation_parts(scheme, reads, gives, parts, len(lead))
        if role in columns:
            parts["columns"] = columns[role]
        if scaling.divides == "inputs":
            sizes = axis_sizes(seen.config)
            ones = np.ones([sizes[axis] for axis in (*lead, *inner)], np.float32)
            parts["prequant"] = inverse(columns.get(role, ones))
        if role == "attn.k" and scaling.cache:
            parts["cache_scale"] = cache_scale(scaling.cache, [seen(one, "cached") for one in ("attn.k", "attn.v")])
        for part, values in parts.items():
            yield TensorId(role, part, seen.layer), values


def beside(
    tensors: Mapping[TensorId, Lazy], checkpoint: Checkpoint, file: Path
) -> tuple[dict[TensorId, Lazy], Checkpoint]:
    """The canonical tensors and the checkpoint, with those of `file` (RESULT) among them or in their place."""
    merged, sources = dict(tensors), dict(checkpoint.tensors)
    for name, entry in read_header(file).items():
        source = f"{_PREFIX}{name}"
        _, layer, rest = name.split(".", 2)
        role, part = rest.rsplit(".", 1)
        sources[source] = SourceTensor(source, entry.dtype, entry.shape, file, entry.offset, entry.nbytes)
        merged[TensorId(role, part, int(layer))] = whole(source, entry.shape, entry.dtype)
    return merged, Checkpoint(checkpoint.folder, checkpoint.config, sources)


def _factors(seen: _Seen, kind: LayerKind, scaling: Scaling, alpha: float) -> dict[str, Factors]:
    """Of smoothing, by the tensor's role."""
    config, found = seen.config, scaling.groups(seen.config, kind)
    own = {role: Maxima(seen(role, "inputs"), seen(role, "columns")) for role in quantised_roles(config, kind)}
    scales = layer_scales(config, found, own, alpha)
    return layer_factors(config, found, scales)[0]


def _whole_columns(config: ModelConfig, role: str, factors: Factors) -> Values | None:
    """[experts ..., in ...] also where one s serves all experts."""
    if factors.columns is None:
        return None
    lead, _, inner = linear_axes(role)
    sizes = axis_sizes(config)
    return np.ascontiguousarray(np.broadcast_to(factors.columns, [sizes[axis] for axis in (*lead, *inner)]))


def _matrix(config: ModelConfig, tensor: TensorId, tensors: Mapping[TensorId, Lazy]) -> Lazy:
    """A weight as [experts, out, in]."""
    return run(join_rows((tensor,), axis_sizes(config)), [tensors[tensor]])[0]


def _largest(
    gather: Gather,
    scheme: Scheme,
    config: ModelConfig,
    role: str,
    matrix: Lazy,
    columns: Values | None,
    limit: int,
) -> Values:
    """Largest |W * columns| of every row, [experts ..., out ...], or of every group, [experts ..., out ..., groups]."""
    groups = matrix.shape[-1] // int4.GROUP if scheme.weight_scales == "group" else 1
    largest = np.empty((*matrix.shape[:-1], groups), np.float32)
    flat = None if columns is None else columns.reshape(*matrix.shape[:-2], matrix.shape[-1])
    cut = Cut(matrix, limit)
    for block in cut.blocks():
        values = _float32(gather, cut, block)
        *lead, rows, _ = (slice(b, b + n) for b, n in zip(block.begin, block.shape, strict=True))
        if flat is not None:
            values = values * flat[tuple(lead)][..., None, :]
        largest[(*lead, rows)] = int4.group_maxima(values, matrix.shape[-1] // groups)
    sizes = axis_sizes(config)
    before, rows_of, _ = linear_axes(role)
    shape = [sizes[axis] for axis in (*before, *rows_of)]
    return largest.reshape([*shape, groups] if scheme.weight_scales == "group" else shape)


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
            # Biases that nothing divides too: those that are joined are of one dtype.
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
