"""All ranks of a model in one process: segments run rank after rank, collectives are sums and concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from compiler.decoder.attention import alibi_slopes, cache_dtype, rounded_key_bias
from compiler.decoder.decoder import embedded, mean_squares, norm
from compiler.decoder.forward import layer_weights
from compiler.decoder.layer import layer as run_layer
from compiler.decoder.rotary import named_tables
from compiler.decoder.segments import (
    SegmentSpec,
    compiled_whole,
    input_names,
    part_of,
    phase_for,
    segment_names,
    specs,
)
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.model.parallel import cache_shapes, head_layout
from compiler.targets.inductor.graph import Segment

Run = Callable[[SegmentSpec, Sequence[Tensor]], Tensor]
_names = cache(input_names)
_segment = cache(Segment)


def run_eagerly(spec: SegmentSpec, inputs: Sequence[Tensor]) -> Tensor:
    """The segment in plain torch."""
    result: Tensor = _segment(spec)(*inputs)
    return result


class SimulatedRanks:
    """`ranks` are the tensors of the rank files; `run` computes a segment from its inputs in order."""

    def __init__(
        self,
        config: ModelConfig,
        ranks: Sequence[dict[str, Tensor]],
        *,
        batch: int,
        positions: int,
        run: Run = run_eagerly,
        products: str = "float",
        cache: str = "",
    ) -> None:
        self.config, self.run = config, run
        self.dtype = ranks[0]["embed.weight"].dtype
        dtype = str(self.dtype).removeprefix("torch.")
        self.whole = compiled_whole(config, len(ranks), products)
        found = specs(config, len(ranks), dtype, Limits(positions, batch), products, cache, whole=self.whole)
        self.specs = {spec.name: spec for spec in found}
        shapes = cache_shapes(config, head_layout(config.heads, config.kv_heads, len(ranks)))
        cached = cache_dtype(cache) if cache else self.dtype
        self.model: list[dict[str, Tensor]] = []
        self.layers: list[list[dict[str, Tensor]]] = []
        for rank, weights in enumerate(ranks):
            self.model.append(
                {
                    **weights,
                    "first": torch.tensor(float(rank == 0), dtype=self.dtype),
                    "vocab_offset": torch.tensor(rank * weights["embed.weight"].shape[0]),
                }
            )
            if config.position == "alibi":
                slopes = torch.tensor(alibi_slopes(config.heads)).chunk(len(ranks))[rank]
                biases = rounded_key_bias(slopes, positions + 1, config.head_dim)
                self.model[-1] |= {"alibi.slopes": slopes, "alibi.key_bias": biases}
            self.model[-1] |= named_tables(config, positions + 1, self.dtype)
            self.layers.append(
                [
                    {
                        **layer_weights(weights, layer),
                        **{
                            name: torch.zeros(batch, positions + 1, *shape, dtype=cached)
                            for name, shape in shapes.items()
                        },
                    }
                    for layer in range(config.layers)
                ]
            )

    @torch.no_grad()
    def step(self, token_ids: Tensor, positions: Tensor, last: Tensor | None = None) -> Tensor:
        """token_ids, positions [B, S] -> logits [B, K, vocab] of the tokens `last` [B, K] (default: all of a row)."""
        batch, length = token_ids.shape
        phase = phase_for(batch, length)
        used = int(positions.max()) + 1
        step = {
            "token_ids": token_ids,
            "positions": positions,
            "key_positions": torch.arange(used),
            "last": torch.arange(length).expand(batch, length) if last is None else last,
        }
        x = embedded(self.config, self._sum("embed", phase, step, None), self.model[0])
        for layer, kind in enumerate(self.config.layer_kinds):
            segments = segment_names(self.config, kind, whole=self.whole)
            if self.whole:
                (x,) = self._each(segments[0], phase, {**step, "x": x}, layer)
            else:
                x = run_layer(self.config, _Layer(self, phase, step, layer, segments), x)
        logits = self._each("head", phase, {**step, "x": x}, None)
        return torch.cat(logits, -1)[..., : self.config.vocab]

    def _each(
        self, segment: str, phase: str, step: dict[str, Tensor], layer: int | None, of_ranks: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """`of_ranks`: the projections of each rank, where the segment begins with them."""
        spec = self.specs[f"{segment}.{phase}"]
        results = []
        for rank, model in enumerate(self.model):
            own = {"qkv": of_ranks[rank]} if len(of_ranks) else {}
            named = {**step, **model, **(self.layers[rank][layer] if layer is not None else {}), **own}
            # A compiled segment takes the strides of its inputs for granted.
            results.append(self.run(spec, [named[name].contiguous() for name in _names(spec)]))
        return results

    def _sum(self, segment: str, phase: str, step: dict[str, Tensor], layer: int | None) -> Tensor:
        return torch.stack(self._each(segment, phase, step, layer)).sum(0)


class _Layer:
    """One layer of the simulated ranks; summands [ranks, B, S, H]."""

    def __init__(
        self, ranks: SimulatedRanks, phase: str, step: dict[str, Tensor], index: int, segments: tuple[str, ...]
    ) -> None:
        self._ranks, self._phase, self._step, self._index = ranks, phase, step, index
        self._segments = {part_of(segment): segment for segment in segments}

    def qkv(self, x: Tensor, /) -> Tensor:
        return self._run("qkv", {"x": x})

    def mean_squares(self, qkv: Tensor, /) -> Tensor:
        return mean_squares(self._ranks.config, qkv, len(self._ranks.model))

    def attn(self, x: Tensor, squares: Tensor | None = None, /) -> Tensor:
        if squares is None:
            return self._run("attn", {"x": x})
        return self._run("attn", {"mean_squares": squares}, list(x))

    def mlp(self, x: Tensor, /) -> Tensor:
        return self._run("mlp", {"x": x})

    def sum(self, summand: Tensor, /) -> Tensor:
        return summand.sum(0)

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        return norm(self._ranks.config, role, y, self._ranks.layers[0][self._index])

    def _run(self, part: str, values: dict[str, Tensor], of_ranks: Sequence[Tensor] = ()) -> Tensor:
        step = {**self._step, **values}
        return torch.stack(self._ranks._each(self._segments[part], self._phase, step, self._index, of_ranks))
