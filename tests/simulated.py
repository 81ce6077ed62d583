"""All ranks of a model in one process: segments run rank after rank, collectives are sums and concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compiler.decoder.attention import alibi_slopes, cache_dtype
from compiler.decoder.forward import layer_weights
from compiler.decoder.rotary import tables
from compiler.decoder.segments import (
    SegmentSpec,
    input_names,
    phase_for,
    segment_names,
    specs,
)
from compiler.model.config import ModelConfig
from compiler.model.limits import Limits
from compiler.targets.inductor.graph import Segment

Run = Callable[[SegmentSpec, Sequence[Tensor]], Tensor]


def run_eagerly(spec: SegmentSpec, inputs: Sequence[Tensor]) -> Tensor:
    """The segment in plain torch."""
    result: Tensor = Segment(spec)(*inputs)
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
        found = specs(config, len(ranks), dtype, Limits(positions, batch), products, cache)
        self.specs = {spec.name: spec for spec in found}
        kv_heads = max(config.kv_heads // len(ranks), 1)
        shape, cached = (batch, positions + 1, kv_heads, config.head_dim), cache_dtype(cache) if cache else self.dtype
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
                self.model[-1]["alibi.slopes"] = torch.tensor(alibi_slopes(config.heads)).chunk(len(ranks))[rank]
            if config.position == "rope":
                cos, sin = tables(config, positions + 1, self.dtype)
                self.model[-1] |= {"rope.cos": cos, "rope.sin": sin}
            self.layers.append(
                [
                    {
                        **layer_weights(weights, layer),
                        "cache_k": torch.zeros(shape, dtype=cached),
                        "cache_v": torch.zeros(shape, dtype=cached),
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
        x = self._sum("embed", phase, step, None)
        for layer, kind in enumerate(self.config.layer_kinds):
            attn, mlp = segment_names(kind)
            partial = self._sum(attn, phase, {**step, "x": x}, layer)
            if self.config.parallel_residual:
                x = x + (partial + self._sum(mlp, phase, {**step, "x": x}, layer))
            else:
                x = x + partial
                x = x + self._sum(mlp, phase, {**step, "x": x}, layer)
        logits = self._each("head", phase, {**step, "x": x}, None)
        return torch.cat(logits, -1)[..., : self.config.vocab]

    def _each(self, segment: str, phase: str, step: dict[str, Tensor], layer: int | None) -> list[Tensor]:
        spec = self.specs[f"{segment}.{phase}"]
        results = []
        for rank, model in enumerate(self.model):
            named = {**step, **model, **(self.layers[rank][layer] if layer is not None else {})}
            # A compiled segment takes the strides of its inputs for granted.
            results.append(self.run(spec, [named[name].contiguous() for name in input_names(spec)]))
        return results

    def _sum(self, segment: str, phase: str, step: dict[str, Tensor], layer: int | None) -> Tensor:
        return torch.stack(self._each(segment, phase, step, layer)).sum(0)
