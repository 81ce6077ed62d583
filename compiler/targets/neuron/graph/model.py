"""One graph: a function of jax arrays on one rank, wired by `compiler.decoder.layer` like every other decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax
from jax.lax import GatherDimensionNumbers, GatherScatterMode

from compiler.decoder.layer import Blocks, layer
from compiler.model.roles import norm_before
from compiler.targets.neuron.graph.attention import GraphStep, attention
from compiler.targets.neuron.graph.caches import INDEX, take
from compiler.targets.neuron.graph.collectives import all_gather, all_reduce, everyone
from compiler.targets.neuron.graph.elementary import activate, full, normalize, softcap, spread, times
from compiler.targets.neuron.graph.experts import experts
from compiler.targets.neuron.graph.linear import linear, product
from compiler.targets.neuron.graph.rotary import turns
from compiler.targets.neuron.graph.signature import inputs
from compiler.targets.neuron.parameters import RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from compiler.model.config import LayerKind, ModelConfig
    from compiler.model.roles import Block
    from compiler.targets.neuron.graph.attention import Pair
    from compiler.targets.neuron.graph.linear import Weights
    from compiler.targets.neuron.graph.signature import GraphSpec
    from compiler.targets.neuron.plan import NeuronPlan


def program(plan: NeuronPlan, spec: GraphSpec) -> Callable[..., tuple[jax.Array, ...]]:
    """Function of the inputs of a graph, in their order, that returns its outputs (`signature.py`)."""
    names = [one.name for one in inputs(plan, spec)]

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        given = dict(zip(names, arrays, strict=True))
        step = _step(plan, spec, given)
        x = _embed(plan, given)
        written: list[jax.Array] = []
        for index, kind in enumerate(plan.config.layer_kinds):
            prefix = f"layers.{index}."
            own = {name.removeprefix(prefix): one for name, one in given.items() if name.startswith(prefix)}
            blocks = RankBlocks(step, kind, own)
            x = layer(plan.config, blocks, x)
            written += blocks.cache
        return (_logits(plan, spec, given, x), *written)

    return run


class RankBlocks(Blocks):
    """One layer of one rank. `cache`: its caches, as attention leaves them."""

    def __init__(self, step: GraphStep, kind: LayerKind, weights: Mapping[str, Any]) -> None:
        self._step, self._kind, self._weights = step, kind, weights
        self._config = step.plan.config
        self.cache: Pair = (weights["cache_k"], weights["cache_v"])

    def attn(self, x: Any, mean_squares: Any = None, /) -> Any:
        summand, self.cache = attention(self._step, self._kind, self._weights, self._before("attn", x), self.cache)
        return summand

    def mlp(self, x: Any, /) -> Any:
        y, weights, config = self._before("mlp", x), self._weights, self._config
        if self._kind.mlp == "moe":
            return experts(self._step.plan, weights, y, self._step.own_rank)
        inner = activate(config.activation, linear(weights, "mlp.up" if self._kind.mlp == "plain" else "mlp.gate", y))
        if self._kind.mlp == "gated":
            inner = lax.mul(inner, linear(weights, "mlp.up", y))
        return linear(weights, "mlp.down", inner)

    def sum(self, summand: Any, /) -> Any:
        return all_reduce(summand, everyone(self._step.plan.tp))

    def norm(self, role: str, y: Any, /) -> Any:
        return _norm(self._config, self._weights, role, y)

    def _before(self, block: Block, x: jax.Array) -> jax.Array:
        role = norm_before(self._config, block)
        return self.norm(role, x) if role else x


def _step(plan: NeuronPlan, spec: GraphSpec, given: Mapping[str, jax.Array]) -> GraphStep:
    positions, rank = given["cache_ids"], given.get(RANK)
    if plan.heads.batch_shards > 1:
        assert rank is not None, "the plan says that graphs need the rank"
        rows = spec.batch // plan.tp
        first = spread(lax.mul(rank, full(rank, rows)), (rows,), (0,))
        positions = take(positions, lax.add(first, lax.iota(INDEX, rows)), 0)
    config, dtype = plan.config, given["embed.weight"].dtype
    ropes = {kind.rope for kind in config.layer_kinds} - {"none"} if config.position == "rope" else set()
    return GraphStep(
        plan=plan,
        spec=spec,
        positions=positions,
        row=given["start_ids"] if plan.continuous_batching and spec.kind == "context" else None,
        rank=rank,
        turns={rope: turns(config, rope, positions, dtype) for rope in sorted(ropes)},
    )


def _embed(plan: NeuronPlan, given: Mapping[str, jax.Array]) -> jax.Array:
    """Residual stream [batch, tokens, hidden] before the first layer: ranks hold columns of the tables."""
    config = plan.config
    x = times(_rows(given["embed.weight"], given["token_ids"]), config.embedding_scale)
    if config.position == "learned":
        places = given["cache_ids"]
        if config.position_offset:
            places = lax.add(places, full(places, config.position_offset))
        x = lax.add(x, _rows(given["position.weight"], places))
    x = lax.slice_in_dim(all_gather(x, everyone(plan.tp), 2), 0, config.hidden, axis=2)
    return _norm(config, given, "embed.norm", x) if config.embedding_norm else x


def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows [batch, tokens, width] of a table; an id beyond it reads its last row: no index may be out of bounds."""
    last = np.array(table.shape[0] - 1, INDEX)
    column = lax.reshape(lax.clamp(np.array(0, INDEX), ids, last), (*ids.shape, 1))
    numbers = GatherDimensionNumbers((2,), (0,), (0,))
    return lax.gather(table, column, numbers, (1, table.shape[1]), mode=GatherScatterMode.PROMISE_IN_BOUNDS)


def _logits(plan: NeuronPlan, spec: GraphSpec, given: Weights, x: jax.Array) -> jax.Array:
    """Logits float32 [batch, vocab_padded / tp] of the token `last_token_id` of each row."""
    config = plan.config
    rows = lax.iota(INDEX, spec.batch)
    places = [lax.reshape(one, (spec.batch, 1)) for one in (rows, given["last_token_id"])]
    numbers = GatherDimensionNumbers((1,), (0, 1), (0, 1))
    sizes, mode = (1, 1, x.shape[2]), GatherScatterMode.PROMISE_IN_BOUNDS
    last = lax.gather(x, lax.concatenate(places, 1), numbers, sizes, mode=mode)
    logits = product(given, "head", _norm(config, given, "final.norm", last))
    if config.head_bias:
        bias = lax.convert_element_type(given["head.bias"], logits.dtype)
        logits = lax.add(logits, spread(bias, logits.shape, (1,)))
    return softcap(times(logits, config.logit_scale), config.logit_softcap)


def _norm(config: ModelConfig, weights: Weights, role: str, y: jax.Array) -> jax.Array:
    return normalize(config.norm, y, weights[f"{role}.weight"], weights.get(f"{role}.bias"), config.norm_eps)
