"""Statistics of activations on a calibration text: the largest magnitude of every channel, for scales.

One layer's weights are in memory at a time; at most two residual streams are on disk (streams.py). The samples run one
by one in float32: neither the ceiling of memory nor tp, target or alpha changes a bit of the result.

The result has for every linear layer, float32, one dimension per axis of its role:

    layers.{i}.{role}.inputs     [experts, in]     largest |x| over the text (an expert: over its tokens)
    layers.{i}.{role}.outputs    [experts, out]    largest |y|, bias included, before rotation
    layers.{i}.{role}.means      [experts, in]     sum of |x| over the number of tokens of the whole text
    layers.{i}.{role}.squares    [experts, in]     sum of x^2 over that number
    layers.{i}.{role}.rows       [experts, out]    largest |W| of each row
    layers.{i}.{role}.columns    [experts, in]     largest |W| of each column

and for attn.k and attn.v `cached` [kv_heads, head_dim]: the largest magnitude in the cache, after norm and rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.calibration import streams
from compiler.calibration.linear_rows import linear_rows
from compiler.decoder.rankfile.layout import FUSED
from compiler.decoder.weights import StoredModel
from compiler.errors import CheckpointError, MemoryCeilingError, NumericsError
from compiler.model.roles import TensorId, axis_sizes, linear_axes
from compiler.quantization.proof_levels import CPU
from compiler.storage.files import spill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.decoder.record import Recorder
    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.quantization.format import Values
    from compiler.storage.checkpoints.checkpoint import Checkpoint


VERSION = 3
"""Version of this step, part of its cache key: raised when the same inputs give other maxima."""
RESULT = "calibration.safetensors"


def calibrate(
    config: ModelConfig,
    tensors: Mapping[TensorId, Lazy],
    checkpoint: Checkpoint,
    samples: Samples,
    *,
    work: Path,
    out: Path,
    max_memory: int = 1 << 30,
    device: str = CPU,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write RESULT into the folder `out`; return facts for the manifest and the report.

    `tensors`: canonical tensors of `checkpoint`. `work`: folder of this calibration, where a killed run left finished
    layers; emptied at the end. `max_memory`: ceiling of weights and activations, in bytes. `device`: of the forward
    pass; results of devices differ in their last bits. `progress(tokens x layers done, total)` counts this run only.
    Raises MemoryCeilingError, DiskFullError, CheckpointError (NaN or infinite weights), NumericsError (infinite
    activations), RefusedError (weights in a dtype without a cast).
    """
    from compiler.decoder.ranks import placed

    model = StoredModel(config, tensors, checkpoint)
    longest = max(ids.size for ids in samples.ids)
    room = workspace(config, longest)
    needed = room + model.largest_layer
    if needed > max_memory:
        raise MemoryCeilingError(
            f"calibration needs {needed:,} bytes: {model.largest_layer:,} for the weights of a layer, the rest for "
            f"samples of {longest} tokens; the ceiling is {max_memory:,} bytes",
            hint=f"pass `--max-memory` of at least {needed}, or shorter samples",
        )
    # With enough memory, weights are widened once per layer instead of once per sample. The bits are the same.
    load = model.layer_in_float32 if room + model.largest_layer_in_float32 <= max_memory else model.layer
    first = streams.begin(model, samples, work)
    total, done = samples.tokens * (config.layers - first), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for layer in range(first, config.layers):
        spill.check_room(work, 4 * samples.tokens * config.hidden)
        # A function call per layer frees its weights before the next layer is read.
        _layer(model, layer, lambda index: placed(load(index), device), samples, work, advance)
    return _finish(config, samples, work, out)


def _layer(
    model: StoredModel,
    layer: int,
    load: Callable[[int], dict[str, Tensor]],
    samples: Samples,
    work: Path,
    advance: Callable[[int], None],
) -> None:
    """Compute the maxima of a layer and the next x."""
    from compiler.decoder.record import Recorder

    config, weights = model.config, load(layer)
    maxima = _of_weights(config, layer, weights)
    _check_weights(model, layer, weights, maxima)
    recorder = Recorder(weights)
    # The next x and the maxima are complete before the old x is deleted: a run killed at any point leaves a whole x.
    cached: dict[str, Values] = {}
    with spill.written(work / f"x-{layer + 1}") as append:
        for x, stored in _run(config, layer, weights, samples, work / f"x-{layer}", recorder):
            append(x.data)
            for role, largest in stored.items():
                name = f"layers.{layer}.{role}.cached"
                cached[name] = np.maximum(cached.get(name, np.float32(0)), largest)
            advance(len(x))
    maxima |= _of_activations(config, layer, recorder, samples.tokens) | cached
    _check_activations(layer, maxima)
    _save(maxima, streams.result(work, layer))
    (work / f"x-{layer}").unlink()


def _run(
    config: ModelConfig, layer: int, weights: Mapping[str, Tensor], samples: Samples, before: Path, recorder: Recorder
) -> Iterator[tuple[Values, dict[str, Values]]]:
    """x float32 [tokens, hidden] of each sample after `layer`, and its largest |k| and |v|, [kv_heads, head_dim]."""
    import torch

    from compiler.decoder.layer import layer as run_layer
    from compiler.decoder.ranks import RanksInProcess

    for x in streams.states(config, samples, before):
        blocks = RanksInProcess(config, config.layer_kinds[layer], [weights], recorder.kernels)
        with torch.no_grad():
            after = run_layer(config, blocks, x)
        # A latent is not cached by head: no scheme quantizes it.
        caches = {} if config.kv_rank else {"attn.k": "cache_k", "attn.v": "cache_v"}
        largest = {role: blocks.caches[0][name].abs().amax((0, 1)).cpu().numpy() for role, name in caches.items()}
        yield after[0].numpy(), largest


def _of_weights(config: ModelConfig, layer: int, weights: Mapping[str, Tensor]) -> dict[str, Values]:
    """Largest magnitudes of rows and columns, from the maximum and the minimum, which copies no matrix."""
    import torch

    found: dict[str, Values] = {}
    for name, role, rows in linear_rows(config, config.layer_kinds[layer]):
        part = weights[f"{name}.weight"][..., rows, :]
        for statistic, axis in (("rows", -1), ("columns", -2)):
            largest = torch.maximum(part.amax(axis), -part.amin(axis)).float().cpu().numpy()
            found[f"layers.{layer}.{role}.{statistic}"] = _shaped(config, role, statistic, largest)
    return found


def _of_activations(config: ModelConfig, layer: int, recorder: Recorder, tokens: int) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for name, role, rows in linear_rows(config, config.layer_kinds[layer]):
        weight = f"{name}.weight"
        seen = {
            "inputs": recorder.inputs[weight],
            "outputs": recorder.outputs[weight][..., rows],
            "means": (recorder.sums[weight] / tokens).float(),
            "squares": (recorder.squares[weight] / tokens).float(),
        }
        for statistic, values in seen.items():
            found[f"layers.{layer}.{role}.{statistic}"] = _shaped(config, role, statistic, values.cpu().numpy())
    return found


def _shaped(config: ModelConfig, role: str, statistic: str, values: Values) -> Values:
    sizes = axis_sizes(config)
    lead, out, inner = linear_axes(role)
    axes = (*lead, *(out if statistic in ("outputs", "rows") else inner))
    return np.ascontiguousarray(values).reshape([sizes[axis] for axis in axes])


def _check_weights(model: StoredModel, layer: int, weights: Mapping[str, Tensor], maxima: Mapping[str, Values]) -> None:
    wrong = {
        TensorId(name.split(".", 2)[2].removesuffix(".rows"), "weight", layer)
        for name, values in maxima.items()
        if name.endswith(".rows") and not np.isfinite(values).all()
    }
    for name, tensor in weights.items():
        if tensor.ndim == 1 and not bool(tensor.isfinite().all()):
            role, part = name.rsplit(".", 1)
            wrong |= {TensorId(one, part, layer) for one in FUSED.get(role, (role,))}
    if wrong:
        sources = model.sources(wrong)
        raise CheckpointError(
            f"NaN or infinite values in {', '.join(sources[:10])} of the checkpoint",
            hint="download it again; if its digests are right, the published checkpoint is damaged",
        )


def _check_activations(layer: int, maxima: Mapping[str, Values]) -> None:
    wrong = sorted(name for name, values in maxima.items() if not np.isfinite(values).all())
    if wrong:
        raise NumericsError(
            f"activations of layer {layer} are not finite: {', '.join(wrong[:10])}",
            hint="a sound model has finite activations in float32: check the checkpoint",
        )


def workspace(config: ModelConfig, tokens: int) -> int:
    """Upper bound of the memory of one sample in a layer, in bytes."""
    from compiler.decoder.wide import BLOCK

    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim
    if config.kv_rank:
        qkv = config.q_rank + 3 * config.heads * (config.kv_rank + config.rotary_dim)
    widest = max(2 * qkv, 3 * config.ffn, 3 * config.moe_ffn * config.experts_per_token + 3 * config.shared_ffn)
    return 4 * tokens * (8 * config.hidden + 2 * widest + 2 * config.heads * tokens) + 2 * BLOCK


def _save(maxima: Mapping[str, Values], path: Path) -> None:
    from safetensors.numpy import save

    with spill.written(path) as append:
        append(save(dict(maxima)))


def _finish(config: ModelConfig, samples: Samples, work: Path, out: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    maxima: dict[str, Values] = {}
    for layer in range(config.layers):
        maxima |= load_file(streams.result(work, layer))
    _save(maxima, out / RESULT)
    for left in work.iterdir():
        left.unlink()
    dead = {
        name.removesuffix(".inputs"): int(count)
        for name, values in sorted(maxima.items())
        if name.endswith(".inputs") and (count := np.count_nonzero(values == 0))
    }
    return {
        "text": {"name": samples.name, "digest": samples.text},
        "samples": len(samples.ids),
        "tokens": samples.tokens,
        "dead_channels": dead,
    }
