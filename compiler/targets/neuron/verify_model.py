"""A small model of the same kind as a large one: the same mathematics, head geometry and strategy, few layers.

Slots of heads, groups of ranks, windows, rotary scaling and padding depend on heads, tp and traits, not on width and
depth; so a model that no machine here could run is proven by one of

    layers      one of each kind in the order of the model, two at least
    hidden, ffn, vocab, experts' width       small, divisible by tp or not as those of the model are
    windows and rotary boundaries            at few positions, as in `compiler.numerics.proof`

with random weights, sharded by the layout of the target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compiler.model.dtypes import DTYPES, TORCH
from compiler.model.lazy import whole
from compiler.model.roles import TensorId, axis_sizes, model_tensors, shape_of
from compiler.targets.neuron.buckets import Buckets
from compiler.targets.neuron.parameters import QUANTIZED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.targets.neuron.plan import NeuronPlan

    Tensors = Mapping[TensorId, NDArray[np.float32]]

WIDTH, VOCAB, LIMIT = 32, 96, 6
"""Least sizes of hidden states, mlp and experts; of the vocabulary; and positions of lowered windows and boundaries."""
PROMPTS, DECODED = (11, 7, 9, 3), 6
"""Tokens of the prompts of the rows, and decode steps behind them: longer than LIMIT."""
BUCKETS = Buckets(context=(12, 16), token=(17, 24))


def small_plan(plan: NeuronPlan, buckets: Buckets = BUCKETS) -> NeuronPlan:
    """Plan of a small model of the kind of `plan`, in float32, with graphs of prompts if that has some."""
    config, tp = plan.config, plan.tp
    kinds = list(dict.fromkeys(config.layer_kinds))
    kinds = kinds if len(kinds) > 1 else kinds * 2

    def size(of_model: int, least: int) -> int:
        """Small size that ranks divide equally if they do that of the model."""
        found = -(-least // tp) * tp
        return 0 if not of_model else found if of_model % tp == 0 or tp == 1 else found + 1

    def low(limit: int | None) -> int | None:
        return None if limit is None else min(limit, LIMIT)

    scaling = config.rope_scaling
    if scaling is not None and scaling.original_max_positions > LIMIT:
        scaling = replace(scaling, original_max_positions=LIMIT)
    own = replace(
        config,
        layers=len(kinds),
        layer_kinds=tuple(replace(kind, window=low(kind.window), chunk=low(kind.chunk)) for kind in kinds),
        hidden=size(config.hidden, WIDTH),
        ffn=size(config.ffn, WIDTH),
        moe_ffn=size(config.moe_ffn, WIDTH),
        vocab=size(config.vocab, VOCAB),
        max_positions=buckets.token[-1],
        rope_scaling=scaling,
    )
    own_buckets = buckets if plan.buckets.context else replace(buckets, context=())
    return replace(plan, config=own, sequence_length=buckets.token[-1], buckets=own_buckets, dtype="float32")


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[TensorId, NDArray[np.float32]]:
    """Canonical tensors with values that matter: biases not 0, norms not 1, logits and routers spread."""
    generator, sizes = np.random.default_rng(seed), axis_sizes(config)
    found = {}
    for tensor in model_tensors(config):
        shape = shape_of(tensor, sizes)
        noise = generator.standard_normal(shape, np.float32)
        if tensor.part == "bias":
            found[tensor] = noise * np.float32(0.3)
        elif tensor.axes == ("hidden",) or tensor.axes == ("head_dim",):
            found[tensor] = 1 + noise * np.float32(0.2)
        elif tensor.role in ("embed", "position"):
            found[tensor] = noise * np.float32(0.3)
        else:
            gain = 2.0 if tensor.role in ("attn.q", "attn.k", "moe.router", "head") else 1.0
            found[tensor] = noise * np.float32(gain / np.sqrt(_inputs(tensor, sizes)))
    return found


def _inputs(tensor: TensorId, sizes: Mapping[str, int]) -> int:
    """Input features of a weight."""
    wide = tensor.role in ("attn.o",)
    return sizes["heads"] * sizes["head_dim"] if wide else sizes[tensor.axes[-1]]


@dataclass(frozen=True)
class SmallModel:
    """A small model: its plan, its canonical tensors as shards have them (rounded where they are int8), rows of ids."""

    plan: NeuronPlan
    tensors: Tensors
    rows: tuple[tuple[int, ...], ...]
    prompts: tuple[int, ...] = PROMPTS


def small_model(
    plan: NeuronPlan, folder: Path, seed: int = 0, buckets: Buckets = BUCKETS
) -> tuple[SmallModel, tuple[Path, ...]]:
    """Small model of the kind of `plan`, and its shards in `folder`, one file for each rank."""
    own = small_plan(plan, buckets)
    tensors = random_tensors(own.config, seed)
    generator = np.random.default_rng(seed)
    rows = tuple(tuple(generator.integers(0, own.config.vocab, n + DECODED).tolist()) for n in PROMPTS)
    files, rounded = write_shards(own, tensors, folder)
    return SmallModel(own, tensors | rounded, rows), files


def write_shards(
    plan: NeuronPlan, tensors: Tensors, folder: Path
) -> tuple[tuple[Path, ...], dict[TensorId, NDArray[np.float32]]]:
    """Write the shards of float32 `tensors` into `folder`, in the dtypes of the plan -> the file of each rank, and the
    weights that int8 rounds.
    """
    import torch
    from safetensors.torch import save_file

    from compiler.model.lazy import read
    from compiler.targets.neuron.layout import rank_plans
    from compiler.targets.neuron.options import NeuronOptions

    options = NeuronOptions(
        group_query_attention=plan.heads.strategy,
        shard_over_sequence=plan.heads.sequence_shards > 1,
        weights=plan.weights,
    )
    rounded: dict[TensorId, NDArray[np.float32]] = {}
    sources: dict[TensorId, NDArray[np.float32]] = dict(tensors)
    if plan.weights:
        for tensor in [one for one in tensors if one.role in QUANTIZED and one.part == "weight"]:
            scale, steps, rounded[tensor] = _rounded(tensor, tensors[tensor])
            sources |= {replace(tensor, part="scale"): scale, replace(tensor, part="steps"): steps}
    lazies: dict[TensorId, Lazy] = {t: whole(str(t), values.shape, "F32") for t, values in sources.items()}
    flat = {str(t): np.ascontiguousarray(values).reshape(-1).view(np.uint32) for t, values in sources.items()}

    def values(lazy: Lazy) -> NDArray[np.float32]:
        return read(lazy, flat.__getitem__).view(np.float32)

    def stored(lazy: Lazy) -> torch.Tensor:
        found = values(lazy)
        if lazy.quantize is not None:
            units = np.clip(np.rint(found * values(lazy.quantize.steps)[..., None]), -127, 127)
            return torch.from_numpy(units.astype(np.int8))
        return torch.from_numpy(np.ascontiguousarray(found)).to(getattr(torch, TORCH[lazy.dtype]))

    files = []
    for rank in rank_plans(plan.config, plan.tp, lazies, DTYPES[plan.dtype], options):
        path = folder / rank.file
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: stored(lazy) for name, lazy in rank.tensors}, path)
        files.append(path)
    return tuple(files), rounded


def _rounded(
    tensor: TensorId, weight: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scale and its inverse of each row of a weight, and the weight rounded to int8 in units of it."""
    rows = replace(tensor, part="scale").axes
    axes = tuple(i for i, axis in enumerate(tensor.axes) if axis not in rows)
    scale = (np.abs(weight).max(axes, keepdims=True) / np.float32(127)).astype(np.float32)
    steps = (np.float32(1) / scale).astype(np.float32)
    units = np.clip(np.rint(weight * steps), -127, 127)
    return scale.squeeze(axes), steps.squeeze(axes), (units * scale).astype(np.float32)


def decoder_logits(config: ModelConfig, tensors: Tensors, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Logits [tokens, vocab] of each row by the decoder on one rank, in float32."""
    import torch

    from compiler.decoder.forward import forward
    from compiler.decoder.rankfile.layout import rank_plans
    from compiler.model.lazy import read

    lazies = {t: whole(str(t), values.shape, "F32") for t, values in tensors.items()}
    flat = {str(t): np.ascontiguousarray(values).reshape(-1).view(np.uint32) for t, values in tensors.items()}
    (plan,) = rank_plans(config, 1, lazies, "F32")
    weights = {name: torch.from_numpy(read(lazy, flat.__getitem__).view(np.float32)) for name, lazy in plan.tensors}
    with torch.no_grad():
        return [forward(config, weights, torch.tensor([list(row)]))[0].numpy() for row in rows]
