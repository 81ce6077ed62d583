"""Statistics of activations on a calibration text: the largest magnitude of every channel, from which scales follow.

    x-0 --layer 0--> x-1 --layer 1--> x-2 ...          x-k: the residual stream of all samples after k layers
            |                |
       maxima of layer 0     maxima of layer 1 ...     layer-k.safetensors

One layer's weights are in memory at a time; the residual stream of all samples is on disk (storage/files/spill.py), two
of them at most. A layer counts as done when its maxima have their name, and the stream behind it is whole by then: a
killed run resumes at the layer it had reached. The samples run one by one in float32: neither the ceiling of memory nor
tp, target or alpha changes a bit of the result.

The result holds for every linear layer of every layer, float32, one dimension an axis of its role:

    layers.{i}.{role}.inputs     [experts, in]     largest |x| over the text (an expert: over the tokens that chose it)
    layers.{i}.{role}.outputs    [experts, out]    largest |y|, bias included, before rotation
    layers.{i}.{role}.means      [experts, in]     sum of |x| over the number of tokens of the whole text
    layers.{i}.{role}.squares    [experts, in]     sum of x^2 over the same
    layers.{i}.{role}.rows       [experts, out]    largest |W| of each row
    layers.{i}.{role}.columns    [experts, in]     largest |W| of each column

and of attn.k and attn.v `cached` [kv_heads, head_dim]: the largest magnitude that is kept for later tokens, behind norm
and rotation.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.decoder.rankfile.layout import FUSED
from compiler.decoder.weights import StoredModel
from compiler.errors import CheckpointError, MemoryCeilingError, NumericsError
from compiler.model.roles import TensorId, axis_sizes, linear_axes
from compiler.quantization.groups import quantized_roles
from compiler.storage.files import spill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.decoder.record import Recorder
    from compiler.model.config import LayerKind, ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.storage.checkpoints.checkpoint import Checkpoint

    Values = NDArray[np.float32]

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
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write RESULT into the folder `out`; return the facts for the manifest and the report.

    `tensors`: the canonical tensors in `checkpoint`. `work`: a folder for this very calibration, where an earlier run
    may have left what it had done; emptied at the end. `max_memory`: ceiling of weights and activations, in bytes.
    `progress(tokens x layers done, in all)` counts what this run does.
    Raises MemoryCeilingError, DiskFullError, CheckpointError (NaN or infinite weights), NumericsError (infinite
    activations), RefusedError (weights in a dtype without a cast).
    """
    model = StoredModel(config, tensors, checkpoint)
    longest = max(ids.size for ids in samples.ids)
    room = workspace(config, longest)
    needed = room + model.largest_layer
    if needed > max_memory:
        raise MemoryCeilingError(
            f"calibrating needs {needed:,} bytes: {model.largest_layer:,} for the weights of a layer, the rest for "
            f"samples of {longest} tokens; the ceiling is {max_memory:,} bytes",
            hint=f"pass `--max-memory` of at least {needed}, or shorter samples",
        )
    # With room for it, weights are widened once a layer instead of once a sample. The bits are the same.
    load = model.layer_in_float32 if room + model.largest_layer_in_float32 <= max_memory else model.layer
    work.mkdir(parents=True, exist_ok=True)
    stream = 4 * samples.tokens * config.hidden
    first = _done(work, config.layers, stream)
    kept = set() if first is None else {f"x-{first}", *(f"layer-{layer}.safetensors" for layer in range(first))}
    for left in work.iterdir():
        if left.name not in kept:
            left.unlink()
    if first is None:
        spill.check_room(work, 2 * stream)
        _embed(model, samples, work / "x-0")
        first = 0
    total, done = samples.tokens * (config.layers - first), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for layer in range(first, config.layers):
        spill.check_room(work, stream)
        # In a function of its own: nothing of a layer is left when the next one is read.
        _layer(model, layer, load, samples, work, advance)
    return _finish(config, samples, work, out)


def _layer(
    model: StoredModel,
    layer: int,
    load: Callable[[int], dict[str, Tensor]],
    samples: Samples,
    work: Path,
    advance: Callable[[int], None],
) -> None:
    """From x-`layer` to the maxima of this layer and the next x."""
    from compiler.decoder.record import Recorder

    config, weights = model.config, load(layer)
    maxima = _of_weights(config, layer, weights)
    _check_weights(model, layer, weights, maxima)
    recorder = Recorder(weights)
    # Both x and maxima of this layer, before x of the last one goes: whatever is killed where, one x is whole.
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
    _save(maxima, work / f"layer-{layer}.safetensors")
    (work / f"x-{layer}").unlink()


def _embed(model: StoredModel, samples: Samples, path: Path) -> None:
    import torch

    from compiler.decoder.ranks import embed_sum

    used, places = np.unique(np.concatenate(samples.ids), return_inverse=True)
    table, begin = model.embedding(used), 0
    with torch.no_grad(), spill.written(path) as append:
        for ids in samples.ids:
            # The table has only the rows in use: a token is named by its place among them.
            tokens = torch.from_numpy(places[begin : begin + ids.size])[None]
            append(embed_sum(model.config, [table], tokens)[0].numpy().data)
            begin += ids.size


def _run(
    config: ModelConfig, layer: int, weights: Mapping[str, Tensor], samples: Samples, before: Path, recorder: Recorder
) -> Iterator[tuple[Values, dict[str, Values]]]:
    """x float32 [tokens, hidden] of every sample after `layer`, and the largest of its keys and values by role."""
    import torch

    from compiler.decoder.layer import layer as run_layer
    from compiler.decoder.ranks import RanksInProcess

    begin = 0
    for ids in samples.ids:
        x = torch.from_numpy(spill.rows(before, begin, ids.size, config.hidden))[None]
        begin += ids.size
        blocks = RanksInProcess(config, config.layer_kinds[layer], [weights], recorder.kernels)
        with torch.no_grad():
            after = run_layer(config, blocks, x)
        caches = zip(("attn.k", "attn.v"), blocks.caches[0], strict=True)
        yield after[0].numpy(), {role: cache.abs().amax((0, 1)).numpy() for role, cache in caches}


def _of_weights(config: ModelConfig, layer: int, weights: Mapping[str, Tensor]) -> dict[str, Values]:
    """Largest magnitudes of rows and columns. The sign is taken after the maximum: no matrix is copied."""
    import torch

    found: dict[str, Values] = {}
    for name, role, rows in _roles(config, config.layer_kinds[layer]):
        part = weights[f"{name}.weight"][..., rows, :]
        for what, axis in (("rows", -1), ("columns", -2)):
            largest = torch.maximum(part.amax(axis), -part.amin(axis)).float().numpy()
            found[f"layers.{layer}.{role}.{what}"] = _shaped(config, role, what, largest)
    return found


def _of_activations(config: ModelConfig, layer: int, recorder: Recorder, tokens: int) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for name, role, rows in _roles(config, config.layer_kinds[layer]):
        weight = f"{name}.weight"
        seen = {
            "inputs": recorder.inputs[weight],
            "outputs": recorder.outputs[weight][..., rows],
            "means": (recorder.sums[weight] / tokens).float(),
            "squares": (recorder.squares[weight] / tokens).float(),
        }
        for what, values in seen.items():
            found[f"layers.{layer}.{role}.{what}"] = _shaped(config, role, what, values.numpy())
    return found


def _roles(config: ModelConfig, kind: LayerKind) -> Iterator[tuple[str, str, slice]]:
    """Every linear layer: the decoder's tensor that holds it, its role, and its rows in that tensor."""
    sizes, roles = axis_sizes(config), quantized_roles(config, kind)
    fused = {name: parts for name, parts in FUSED.items() if set(parts) <= set(roles)}
    alone = {role: (role,) for role in roles if not any(role in parts for parts in fused.values())}
    for name, parts in (fused | alone).items():
        begin = 0
        for role in parts:
            count = prod(sizes[axis] for axis in linear_axes(role)[1])
            yield name, role, slice(begin, begin + count)
            begin += count


def _shaped(config: ModelConfig, role: str, what: str, values: Values) -> Values:
    """One dimension an axis."""
    sizes = axis_sizes(config)
    lead, out, inner = linear_axes(role)
    axes = (*lead, *(out if what in ("outputs", "rows") else inner))
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
            hint="download it again; if its digests are right, it is damaged at its source",
        )


def _check_activations(layer: int, maxima: Mapping[str, Values]) -> None:
    wrong = sorted(name for name, values in maxima.items() if not np.isfinite(values).all())
    if wrong:
        raise NumericsError(
            f"activations of layer {layer} are not finite: {', '.join(wrong[:10])}",
            hint="in float32, with finite weights, no sound model does that: check the checkpoint",
        )


def workspace(config: ModelConfig, tokens: int) -> int:
    """Upper bound of the bytes that one sample takes inside a layer."""
    from compiler.decoder.wide import BLOCK

    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim
    widest = max(2 * qkv, 3 * config.ffn, 3 * config.moe_ffn * config.experts_per_token + 3 * config.shared_ffn)
    return 4 * tokens * (8 * config.hidden + 2 * widest + 2 * config.heads * tokens) + 2 * BLOCK


def _done(work: Path, layers: int, stream: int) -> int | None:
    """Layers that an earlier run has finished; None where it left nothing to resume from."""
    done = 0
    while done < layers and (work / f"layer-{done}.safetensors").is_file():
        done += 1
    # Killed between the two names: x after the next layer is there, its maxima are not. It is made again.
    path = work / f"x-{done}"
    return done if path.is_file() and path.stat().st_size == stream else None


def _save(maxima: Mapping[str, Values], path: Path) -> None:
    from safetensors.numpy import save

    with spill.written(path) as append:
        append(save(dict(maxima)))


def _finish(config: ModelConfig, samples: Samples, work: Path, out: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    maxima: dict[str, Values] = {}
    for layer in range(config.layers):
        maxima |= load_file(work / f"layer-{layer}.safetensors")
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
