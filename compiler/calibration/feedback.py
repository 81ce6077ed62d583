"""Weights rounded with feedback of their errors (`quantization/feedback.py`), one layer at a time.

    1  the text runs through a layer of the source:         H = X^T X of the input of every linear layer
    2  its linear layers are rounded with these
    3  the text runs through the rounded layer:             x of the next layer, which so sees the errors before it

Two files of canonical tensors result: WEIGHTS, the rounded and dequantized weights in bfloat16, which rounding to
nearest with the scales in SCALES brings back to the same integers (8 significant bits tell all of theirs apart). Layers
that share an input share its H and are rounded together. Memory: a layer in float32 twice, and the H of its inputs.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.calibration import streams
from compiler.calibration.activations import workspace
from compiler.calibration.linear_rows import linear_rows
from compiler.decoder.weights import StoredModel
from compiler.errors import MemoryCeilingError, NumericsError
from compiler.model.roles import TensorId, axis_sizes, linear_axes, shape_of
from compiler.quantization import feedback
from compiler.quantization.formats import load
from compiler.quantization.proof_levels import CPU
from compiler.storage.files import spill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.quantization.format import Values
    from compiler.quantization.schemes import Scheme
    from compiler.storage.checkpoints.checkpoint import Checkpoint

VERSION = 3
"""Version of this step, part of its cache key: raised when the same inputs give other weights."""
WEIGHTS, SCALES = "compensated.safetensors", "group-scales.safetensors"


def compensate(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    samples: Samples,
    scheme: Scheme,
    *,
    work: Path,
    out: Path,
    max_memory: int = 1 << 30,
    device: str = CPU,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write WEIGHTS and SCALES into the folder `out`; return facts for the report. Arguments as in `calibrate`.

    Raises MemoryCeilingError, DiskFullError, NumericsError (infinite activations), RefusedError (dtypes).
    """
    model = StoredModel(config, tensors, checkpoint)
    _check_memory(model, samples, max_memory)
    first = streams.begin(model, samples, work)
    total, done, gains = samples.tokens * (config.layers - first), 0, [0.0, 0.0]
    for layer in range(first, config.layers):
        # A function call per layer frees its weights before the next layer is read.
        _layer(model, layer, samples, scheme, work, device, gains)
        done += samples.tokens
        if progress is not None:
            progress(done, total)
    _finish(config, work, out)
    return {
        "text": {"name": samples.name, "digest": samples.text},
        "samples": len(samples.ids),
        "tokens": samples.tokens,
        "error_of_nearest": gains[0],
        "error": gains[1],
    }


def _layer(
    model: StoredModel,
    layer: int,
    samples: Samples,
    scheme: Scheme,
    work: Path,
    device: str,
    gains: list[float],
) -> None:
    """Round a layer, and compute the next x. `gains`: errors of y, summed, to nearest and with feedback."""
    import torch

    from compiler.decoder.kernels import PLAIN
    from compiler.decoder.layer import layer as run_layer
    from compiler.decoder.moments import Moments
    from compiler.decoder.ranks import RanksInProcess, placed

    config, kind = model.config, model.config.layer_kinds[layer]
    weights = model.layer_in_float32(layer)
    there = placed(weights, device)
    moments = Moments(there)
    before, behind = work / f"x-{layer}", work / f"x-{layer + 1}"
    with torch.no_grad():
        for x in streams.states(config, samples, before):
            run_layer(config, RanksInProcess(config, kind, [there], moments.kernels), x)
        scales = _round(config, layer, weights, placed(moments.hessians, CPU), scheme, gains)
        del moments, there
        rounded = placed(weights, device)
        spill.check_room(work, 4 * samples.tokens * config.hidden)
        with spill.written(behind) as append:
            for x in streams.states(config, samples, before):
                after = run_layer(config, RanksInProcess(config, kind, [rounded], PLAIN), x)
                if not bool(after.isfinite().all()):
                    raise NumericsError(
                        f"activations of layer {layer} are not finite",
                        hint="a sound model has finite activations in float32: check the checkpoint",
                    )
                append(after[0].numpy().data)
    with spill.tensors(streams.result(work, layer)) as add:
        for role, rows in _rows(config, layer, weights):
            add(f"layers.{layer}.{role}.weight", rows, "BF16")
            add(f"layers.{layer}.{role}.group_scale", scales[role], "F32")
    before.unlink()


def _round(
    config: ModelConfig,
    layer: int,
    weights: Mapping[str, Tensor],
    hessians: Mapping[str, Tensor],
    scheme: Scheme,
    gains: list[float],
) -> dict[str, Values]:
    """Round the weights of linear layers in place; scales by role, [experts ..., out ..., groups]."""
    form, group, scales = load(scheme.weights), scheme.group, dict[str, "Values"]()
    assert group is not None
    found: dict[str, Values] = {}
    for name in dict.fromkeys(name for name, _, _ in linear_rows(config, config.layer_kinds[layer])):
        weight, hessian = (of[f"{name}.weight"].numpy() for of in (weights, hessians))
        lead = weight.shape[:-2]
        each = np.empty((*weight.shape[:-1], weight.shape[-1] // group), np.float32)
        for expert in np.ndindex(lead):
            own, h = weight[expert], hessian[expert]
            rounded = feedback.compensated(own, h, form, group)
            each[expert] = rounded.scales
            gains[0] += rounded.to_nearest
            gains[1] += rounded.error
            own[...] = rounded.values
        found[name] = each
    sizes = axis_sizes(config)
    for name, role, rows in linear_rows(config, config.layer_kinds[layer]):
        lead_axes, out, _ = linear_axes(role)
        of_role = found[name][..., rows, :]
        scales[role] = of_role.reshape([*(sizes[axis] for axis in (*lead_axes, *out)), of_role.shape[-1]])
    return scales


def _rows(config: ModelConfig, layer: int, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Values]]:
    """Canonical weights of the linear layers, by role."""
    sizes = axis_sizes(config)
    for name, role, rows in linear_rows(config, config.layer_kinds[layer]):
        own = weights[f"{name}.weight"][..., rows, :].numpy()
        yield role, np.ascontiguousarray(own).reshape(shape_of(TensorId(role, "weight", layer), sizes))


def moments_bytes(config: ModelConfig) -> int:
    """Memory of the second moments of a layer's inputs, and of the factors of the largest."""
    sizes, largest = axis_sizes(config), 0

    def width(role: str) -> tuple[int, int]:
        lead, _, inner = linear_axes(role)
        return prod(sizes[axis] for axis in lead), prod(sizes[axis] for axis in inner)

    for kind in config.layer_kinds:
        inputs = {name: width(role) for name, role, _ in linear_rows(config, kind)}
        # Every H of all experts; while one is factored, it is also there permuted, damped, factored and inverted.
        own = sum(4 * count * wide**2 for count, wide in inputs.values())
        largest = max(largest, own + 4 * 4 * max(wide for _, wide in inputs.values()) ** 2)
    return largest


def _check_memory(model: StoredModel, samples: Samples, max_memory: int) -> None:
    """Raises MemoryCeilingError."""
    config, largest = model.config, moments_bytes(model.config)
    longest = max(ids.size for ids in samples.ids)
    needed = workspace(config, longest) + 2 * model.largest_layer_in_float32 + largest
    if needed > max_memory:
        raise MemoryCeilingError(
            f"feedback of rounding errors needs {needed:,} bytes: {2 * model.largest_layer_in_float32:,} for the "
            f"weights of a layer, {largest:,} for the second moments of its inputs; the ceiling is {max_memory:,}",
            hint=f"pass `--max-memory` of at least {needed}, or a scheme without feedback",
        )


def _finish(config: ModelConfig, work: Path, out: Path) -> None:
    """Move the layers' results into WEIGHTS and SCALES."""
    import torch
    from safetensors import safe_open

    with spill.tensors(out / WEIGHTS) as weights, spill.tensors(out / SCALES) as scales:
        for layer in range(config.layers):
            with safe_open(streams.result(work, layer), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    values = file.get_tensor(name)
                    if values.dtype == torch.bfloat16:
                        weights(name, values.float().numpy(), "BF16")
                    else:
                        scales(name, values.numpy(), "F32")
    for left in work.iterdir():
        left.unlink()
