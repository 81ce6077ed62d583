"""Scales of quantization, from maxima.

The result is a safetensors file of canonical tensors (`layers.3.attn.q.scale`, ...), which depends on the scheme, on
alpha and on the target's kernels (`quantization/scaling.py`), but not on tp. Ranks are planned from them and the
checkpoint's tensors:

    {role}.columns          [experts, in]     s of smoothing, if any
    {role}.prequant         [experts, in]     1 / columns, for kernels that multiply their inputs
    {role}.{other parts}                      `quantization/parts.py`
    attn.k.cache_scale                        of keys and values, for a cache with one scale per layer
    attn.{k,v}.cached_scale [kv_heads]        for a cache with one scale per head
    weight, bias                              norms, biases and routers that smoothing changes

Rounding a row needs its maximum, and a rank of a row-parallel layer has only parts of rows: so the weights are read
once here, under the ceiling of memory, and a second time when they are converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compiler.calibration.matrices import Matrices
from compiler.calibration.search import SEARCHES, Seen, alphas, flat, whole_columns
from compiler.model.lazy import whole
from compiler.model.roles import TensorId, axis_sizes, linear_axes
from compiler.quantization.format import group_maxima, inverse
from compiler.quantization.formats import load
from compiler.quantization.groups import Factors, apply, quantized_roles
from compiler.quantization.parts import (
    Parts,
    activation_parts,
    cache_scale,
    head_cache_scales,
    one_scale,
    own_parts,
    rounded_up,
    weight_parts,
)
from compiler.quantization.prequantized.checkpoint import own_scales
from compiler.quantization.scale_tensors import PREFIX
from compiler.quantization.schemes import ACTIVATION_AWARE, FEEDBACK, FLOAT, HEADS, SMOOTH, UNSEARCHED
from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor
from compiler.storage.checkpoints.header import read_header
from compiler.storage.files import spill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from compiler.calibration.matrices import Reader
    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.quantization.format import Values
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import Scheme


VERSION = 3
RESULT = "scales.safetensors"
_BUFFERS = {UNSEARCHED: 10, FEEDBACK: 10, SMOOTH: 10, ACTIVATION_AWARE: 24}
"""Buffers (`Matrices`) per block of bfloat16: its bits, the window, and in float32 values, product, magnitude; for a
search also the rounded values, the dequantized values and their error.
"""


def make_scales(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    out: Path,
    *,
    scaling: Scaling,
    alpha: float | None = 0.5,
    maxima: Mapping[str, Values] | None = None,
    own: Mapping[str, Values] | None = None,
    max_memory: int = 1 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Write RESULT, the tensors of `quantization/scale_tensors.py`, into the folder `out`; return alpha by group.

    `tensors`: canonical tensors of `checkpoint`; a quantized checkpoint keeps its own scales. `maxima`: result of
    `calibrate`, where the scheme or the cache needs it. `own`: group scales of weights that are rounded already, by
    name. `alpha` None: searched for each group. `progress(bytes of
    weights read, total)`. `max_memory`: ceiling in bytes, besides the scales of one layer.
    Raises MemoryCeilingError, CheckpointError (NaN or infinite weights), UsageError (alpha), DiskFullError.
    """
    scheme = scaling.scheme
    wanted = [
        TensorId(role, "weight", layer) for layer in range(config.layers) for role in scaling.roles(config, layer)
    ]
    buffers = _BUFFERS[ACTIVATION_AWARE if alpha is None else scheme.search]
    heads = [_head_matrix(tensors)] if scaling.head else []
    matrices = Matrices(config, tensors, [*wanted, *heads], max_memory, buffers)
    total, done = sum(map(matrices.nbytes, wanted)), 0
    chosen: dict[str, float] = {}
    with checkpoint.opened() as files, spill.tensors(out / RESULT) as add:
        reader = matrices.opened(checkpoint, files)
        for layer, kind in enumerate(config.layer_kinds):
            seen = Seen(config, layer, maxima or {})
            by_group = alphas(seen, kind, scaling, alpha, reader)
            factors = SEARCHES[scheme.search](seen, kind, scaling, by_group, reader)
            chosen |= {f"layers.{layer}.{group}": of for group, of in by_group.items()}
            columns = {role: s for role, of in factors.items() if (s := whole_columns(config, role, of)) is not None}
            if scaling.divides == "inputs":
                # Kernels read 1 / s in the files' dtype: s is the reciprocal of that.
                columns = {role: inverse(rounded_up(inverse(s))) for role, s in columns.items()}
            found, kept = {}, dict[str, Parts]()
            for tensor in [t for t in wanted if t.layer == layer]:
                lazy, of_role = matrices.lazies[tensor], scheme.at(layer, tensor.role)
                if own and of_role.rounds_with_feedback:
                    kept[tensor.role] = own_parts(of_role, own[f"layers.{layer}.{tensor.role}.group_scale"])
                elif checkpoint.own:
                    scales = _shaped(config, tensor, own_scales(checkpoint, lazy))
                    kept[tensor.role] = own_parts(of_role, scales)
                else:
                    found[tensor.role] = _largest(reader, of_role, config, tensor, lazy.shape, columns.get(tensor.role))
                done += matrices.nbytes(tensor)
                if progress is not None:
                    progress(done, total)
            weights = {**kept, **_weights(seen, scaling, factors, found)}
            for tensor, values in _of_layer(seen, scaling, factors, columns, weights):
                add(str(tensor), values)
            for name, values in _changed(config, layer, factors, tensors, reader).items():
                add(name, values)
        for head in heads:
            of_head = HEADS[scaling.head]
            rows = _largest(reader, of_head, config, head, matrices.shape(head), None)
            for part, values in weight_parts(of_head, rows, None, 0).items():
                add(str(TensorId("head", part)), values)
    return chosen


def _of_layer(
    seen: Seen,
    scaling: Scaling,
    factors: Mapping[str, Factors],
    columns: Mapping[str, Values],
    weights: Mapping[str, Parts],
) -> Iterator[tuple[TensorId, Values]]:
    """Parts of the quantized linear layers and cache scales of a layer."""
    scheme = scaling.scheme
    divisors = {role: of.divisor for role, of in factors.items() if of.divisor is not None}
    static = scheme.activations != FLOAT and scheme.activation_scales == "tensor"
    for role, of_weight in weights.items():
        lead, _, inner = linear_axes(role)
        together = scaling.with_role(role, tuple(weights))
        x_max = y_max = 0.0
        if static:
            x_max = max(float((seen(one, "inputs") / columns.get(one, np.float32(1))).max()) for one in together)
            y_max = max(float((seen(one, "outputs") / divisors.get(one, np.float32(1))).max()) for one in together)
        parts = {**of_weight, **activation_parts(scheme, x_max, y_max, of_weight, len(lead))}
        sizes = axis_sizes(seen.config)
        ones = np.ones([sizes[axis] for axis in (*lead, *inner)], np.float32)
        if role in columns or scaling.divides == "norms":
            parts["columns"] = columns.get(role, ones)
        if scaling.divides == "inputs":
            parts["prequant"] = inverse(columns.get(role, ones))
        for part, values in parts.items():
            yield TensorId(role, part, seen.layer), values
    use = load(scaling.cache).cache if scaling.cache else None
    for role, part in scaling.cache_parts:
        assert use is not None, scaling.cache
        kept = {one: seen(one, "cached") / divisors.get(one, np.float32(1)) for one in ("attn.k", "attn.v")}
        if part == "cached_scale":
            yield TensorId(role, part, seen.layer), head_cache_scales(use, kept[role])
        else:
            yield TensorId(role, part, seen.layer), cache_scale(use, list(kept.values()))


def _weights(
    seen: Seen, scaling: Scaling, factors: Mapping[str, Factors], largest: Mapping[str, Values]
) -> dict[str, Parts]:
    """Parts of the weights, from `_largest` of each role."""
    found = {}
    divisors = {role: of.divisor for role, of in factors.items() if of.divisor is not None}
    for role, rows in largest.items():
        lead, scheme = len(linear_axes(role)[0]), scaling.scheme.at(seen.layer, role)
        if scheme.weight_scales == "tensor":
            sharing = scaling.with_role(role, tuple(largest)) if scaling.one_scale else (role,)
            rows = one_scale({one: largest[one] for one in sharing}, divisors, lead)[role]
        found[role] = weight_parts(scheme, rows, divisors.get(role), lead)
    return found


def with_scales(
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    *files: Path,
    taken: Callable[[TensorId], bool] = lambda _tensor: True,
) -> tuple[dict[TensorId, Lazy], Checkpoint]:
    """Canonical tensors and checkpoint, with the tensors of `files` (RESULT, and weights that are rounded already)
    added or replaced, as far as they are `taken`.
    """
    merged, sources = dict(tensors), dict(checkpoint.tensors)
    entries = [(file, name, entry) for file in files for name, entry in read_header(file).items()]
    for file, name, entry in entries:
        source = f"{PREFIX}{name}"
        tensor = _named(name)
        if taken(tensor):
            sources[source] = SourceTensor(source, entry.dtype, entry.shape, file, entry.offset, entry.nbytes)
            merged[tensor] = whole(source, entry.shape, entry.dtype)
    return merged, Checkpoint(checkpoint.folder, checkpoint.config, sources)


def _head_matrix(tensors: Mapping[TensorId, Lazy]) -> TensorId:
    """Canonical tensor with the rows of the head: a tied head is the embedding."""
    return head if (head := TensorId("head")) in tensors else TensorId("embed")


def _named(name: str) -> TensorId:
    """Canonical tensor of a file of scales: `layers.3.attn.q.steps`, `head.steps`."""
    role, part = name.rsplit(".", 1)
    if not role.startswith("layers."):
        return TensorId(role, part)
    _, layer, role = role.split(".", 2)
    return TensorId(role, part, int(layer))


def _largest(
    reader: Reader,
    scheme: Scheme,
    config: ModelConfig,
    tensor: TensorId,
    shape: Sequence[int],
    columns: Values | None,
) -> Values:
    """Largest |W * columns| of every row, [experts ..., out ...], or of every group, [experts ..., out ..., groups].

    `shape`: of the matrix.
    """
    lead = linear_axes(tensor.role)[0]
    group = scheme.group or shape[-1]
    largest = np.empty((*shape[:-1], shape[-1] // group), np.float32)
    of = None if columns is None else flat(columns, len(lead))
    for place, values in reader.blocks(tensor):
        *experts, _, _ = place
        if of is not None:
            values = values * of[tuple(experts)][..., None, :]
        largest[place[:-1]] = group_maxima(values, group)
    shaped = _shaped(config, tensor, largest)
    return shaped if scheme.group else shaped[..., 0]


def _shaped(config: ModelConfig, tensor: TensorId, values: Values) -> Values:
    """Split axes: [experts, out, groups] -> [experts ..., out ..., groups]."""
    lead, rows, _ = linear_axes(tensor.role)
    sizes = axis_sizes(config)
    return values.reshape([*(sizes[axis] for axis in (*lead, *rows)), values.shape[-1]])


def _changed(
    config: ModelConfig,
    layer: int,
    factors: Mapping[str, Factors],
    tensors: Mapping[TensorId, Lazy],
    reader: Reader,
) -> dict[str, Values]:
    """Small tensors of a layer that smoothing changes, with their new values."""
    quantized = set(quantized_roles(config, config.layer_kinds[layer]))
    found = {}
    for role, factor in factors.items():
        for part in ("weight", "bias"):
            tensor = TensorId(role, part, layer)
            # Biases that nothing divides are written too, since joined biases must have one dtype.
            if tensor not in tensors or (part == "weight" and role in quantized):
                continue
            found[str(tensor)] = apply(config, role, part, reader.whole(tensors[tensor]), factor)
    return found
