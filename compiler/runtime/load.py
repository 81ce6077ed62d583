"""Loading of one rank of an artifact: weights are mapped and bound to segments without a copy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.decoder.products import Products
from compiler.decoder.segments import PHASES, SegmentSpec, are_whole, input_names, part_of, phase_for, specs
from compiler.errors import IncompatibleError
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.model.parallel import cache_shapes, head_layout
from compiler.runtime.engine import Call, LayerCalls, Program, Share
from compiler.runtime.ranks import threads_per_rank
from compiler.runtime.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.artifact.manifest import Manifest
    from compiler.runtime.follower import RankRole


def share(role: RankRole) -> Share:
    """Load the share of `role.rank`. Rank 0 has checked the artifact before it started followers."""
    from compiler.artifact.manifest import load_manifest
    from compiler.runtime.lean import import_torch

    manifest = load_manifest(role.artifact)
    weights = map_weights(manifest, role.artifact, role.rank)
    import_torch()
    return share_of(manifest, role.artifact, role.rank, weights)


def map_weights(manifest: Manifest, folder: Path, rank: int) -> Weights:
    """Map the weights of `rank` and start to read them ahead; needs no torch, and runs before its import."""
    from compiler.runtime.section import runnable

    weights = Weights(folder / runnable(manifest).weights[rank])
    weights.read_ahead()
    return weights


def share_of(manifest: Manifest, folder: Path, rank: int, weights: Weights) -> Share:
    """Share of `rank`: its weights (on CUDA copied to the device), and packages that are loaded on first use."""
    import torch

    from compiler.runtime.package import Package
    from compiler.runtime.section import runnable

    tp, device, made = manifest.parallel.tp, manifest.device.kind, runnable(manifest)
    if tp > 1:
        torch.set_num_threads(threads_per_rank(tp))
    if device == "cuda":
        if torch.cuda.device_count() < tp:
            raise IncompatibleError(
                f"`{manifest.name}` needs {tp} GPUs; torch finds {torch.cuda.device_count()}",
                hint="run it on a machine with as many, or build it with a smaller `--tp`",
            )
        torch.cuda.set_device(rank)

    @functools.cache
    def package(name: str) -> Package:
        return Package(folder / made.packages[name])

    return assemble(
        manifest.config,
        Limits(**manifest.limits.model_dump()),
        made.layers,
        weights.tensors(device),
        lambda spec, inputs: package(spec.name).run(inputs)[0],
        rank=rank,
        tp=tp,
        device=device,
        products=made.products,
        cache=made.cache,
        head=made.head,
    )


def assemble(
    config: ModelConfig,
    limits: Limits,
    layers: Sequence[tuple[str, ...]],
    weights: Mapping[str, Tensor],
    run: Callable[[SegmentSpec, list[Tensor]], Tensor],
    *,
    rank: int,
    tp: int,
    device: str,
    products: Products = "float",
    cache: str = "",
    head: str = "float",
) -> Share:
    """Share of a rank from segments that `run` computes. `layers`: segments of each layer; `products`, `cache`, `head`:
    as in `Segments`.
    """
    import torch

    from compiler.decoder.attention import alibi_slopes, cache_dtype

    heads = head_layout(config.heads, config.kv_heads, tp)
    slopes = alibi_slopes(config.heads)[rank * heads.heads : (rank + 1) * heads.heads]
    table = weights["embed.weight"]
    dtype = str(table.dtype).removeprefix("torch.")
    found = specs(config, tp, dtype, limits, products, cache, head, whole=are_whole(layers))
    by_name = {spec.name: spec for spec in found}
    programs = {
        phase.name: bind(by_name, phase.name, layers, weights, run)
        for phase in PHASES
        if f"embed.{phase.name}" in by_name
    }
    return Share(
        config,
        lambda batch, length: programs[phase_for(batch, length)],
        {
            "first": torch.tensor(float(rank == 0), dtype=table.dtype, device=device),
            "vocab_offset": torch.tensor(rank * table.shape[0], device=device),
            "alibi.slopes": torch.tensor(slopes, dtype=torch.float32, device=device),
        },
        caches=cache_shapes(config, heads),
        dtype=table.dtype,
        cached=cache_dtype(cache) if cache else table.dtype,
        device=device,
    )


def bind(
    by_name: Mapping[str, SegmentSpec],
    phase: str,
    layers: Sequence[tuple[str, ...]],
    weights: Mapping[str, Tensor],
    run: Callable[[SegmentSpec, list[Tensor]], Tensor],
) -> Program:
    """Bind the segments of a phase to their weights; other inputs stay gaps."""
    names = functools.cache(lambda segment: input_names(by_name[f"{segment}.{phase}"]))

    def call(segment: str, prefix: str = "") -> Call:
        inputs = tuple(weights.get(prefix + name) for name in names(segment))
        gaps = tuple((i, name) for i, name in enumerate(names(segment)) if inputs[i] is None)
        return Call(functools.partial(run, by_name[f"{segment}.{phase}"]), inputs, gaps)

    def one_layer(index: int, segments: Sequence[str]) -> LayerCalls:
        prefix = f"layers.{index}."
        calls = {part_of(segment): call(segment, prefix) for segment in segments}
        return LayerCalls(calls, {name: w for name in _NORMS if (w := weights.get(prefix + name)) is not None})

    norms = {name: w for name in _EMBEDDING_NORM if (w := weights.get(name)) is not None}
    of_layers = tuple(one_layer(i, segments) for i, segments in enumerate(layers))
    return Program(call("embed"), of_layers, call("head"), norms)


_NORMS = tuple(f"{block}.post_norm.{part}" for block in ("attn", "mlp") for part in ("weight", "bias"))
"""Weights of a layer that no segment reads: norms after sums over ranks."""
_EMBEDDING_NORM = ("embed.norm.weight", "embed.norm.bias")
