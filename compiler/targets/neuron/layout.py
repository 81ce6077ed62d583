"""Layout of the shards: canonical tensors -> the tensors of parameters.py, of every rank, and back.

    weights/tp{r}_sharded_checkpoint.safetensors        the place and name that neuronx-distributed gives its shards

Linear weights are [out, in], as neuronx-distributed has them. Heads are padded and repeated by the slots of heads.py;
ranks then hold equal runs of rows (columns of o). presharded.py has the layout of transformers-neuronx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.model.layout import Layout, Rounds, to_rank_plans
from compiler.model.ops import Each, OnFirst, Op, Pad, Program, Rearrange, Repeat, Replicate, Shard
from compiler.model.parallel import HeadLayout
from compiler.model.roles import TensorId
from compiler.targets.neuron.architectures import row_for
from compiler.targets.neuron.options import PLAIN, NeuronOptions
from compiler.targets.neuron.parameters import QUANTIZED, rank_tensors
from compiler.targets.neuron.plan import NeuronPlan, neuron_plan

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy, RankPlan

ROW_PARALLEL = ("attn.o", "mlp.down")
"""Roles whose bias is added once: on rank 0."""


def shard_file(rank: int) -> str:
    return f"weights/tp{rank}_sharded_checkpoint.safetensors"


def weight_plan(config: ModelConfig, tp: int, options: NeuronOptions) -> NeuronPlan:
    """Plan of the weights alone, which do not depend on lengths and rows."""
    strategy = options.strategy
    rows = tp if strategy == "shard-over-batch" else 1
    return neuron_plan(
        config,
        tp,
        config.max_positions,
        (rows,),
        strategy=strategy,
        over_sequence=options.shard_over_sequence,
        weights=options.weights,
    )


def heads(config: ModelConfig, tp: int, options: NeuronOptions = PLAIN) -> HeadLayout:
    """Heads of a rank. The kv heads are those that it caches of one row, rounded up where rows are divided."""
    found = weight_plan(config, tp, options).heads
    shards = found.batch_shards * found.sequence_shards
    return HeadLayout(found.local_heads, -(-found.local_kv_heads // shards), found.replication)


def layouts(config: ModelConfig, tp: int, options: NeuronOptions = PLAIN) -> list[Layout]:
    """Tensors of a rank with inputs, in the order of the graphs' parameters.

    Raises RefusedError without a row, or for heads that the strategy cannot split.
    """
    row_for(config)
    plan = weight_plan(config, tp, options)
    found = []
    for tensor in rank_tensors(plan):
        tied = config.tied and tensor.role == "head" and tensor.part == "weight"
        source = TensorId("embed") if tied else tensor
        rounds = None
        if options.weights and tensor.role in QUANTIZED and tensor.part == "weight":
            rounds = Rounds(_part(tensor, "steps", plan), _part(tensor, "columns", plan), options.weights)
        dtype = "I8" if rounds else None
        found.append(Layout(str(tensor), (source,), (spread(tensor, plan),), (), dtype, rounds=rounds))
        if rounds:
            found.append(replace(_part(tensor, "scale", plan), dtype="F32"))
    return found


def rank_plans(
    config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: NeuronOptions = PLAIN
) -> Sequence[RankPlan]:
    """Files of all ranks. `dtype`: by its safetensors name (`BF16`)."""
    return to_rank_plans(layouts(config, tp, options), tensors, dtype, shard_file)


def spread(tensor: TensorId, plan: NeuronPlan) -> Program:
    """Program that makes one shard for each rank."""
    axes, tp = tensor.axes, plan.tp
    if tensor.role in ("embed", "position"):
        return (Pad(1, plan.config.hidden, plan.hidden_padded), Shard(1, tp))
    if tensor.part == "bias" and tensor.role in ROW_PARALLEL:
        return (OnFirst(tp),)
    if tensor.role == "moe.router":
        return (Replicate(tp),)
    if axes[0] == "experts":
        return _experts(axes, plan)
    for axis, name in enumerate(axes):
        if name == "heads":
            return (
                *_padded_heads(axes, axis, plan),
                *_flat(axes, axis, plan, len(plan.heads.queries)),
                Shard(axis, tp),
            )
        if name == "kv_heads":
            return (*_copied_heads(axis, plan), *_flat(axes, axis, plan, _kv_rows(plan)), Shard(axis, tp))
        if name == "ffn":
            return (Pad(axis, plan.config.ffn, plan.ffn_padded), Shard(axis, tp))
        if name == "vocab":
            return (Pad(axis, plan.config.vocab, plan.vocab_padded), Shard(axis, tp))
    return (Replicate(tp),)


def _part(tensor: TensorId, part: str, plan: NeuronPlan) -> Layout:
    """Layout of another part of a linear layer: a value for each of its rows or columns."""
    own = replace(tensor, part=part)
    return Layout(str(own), (own,), (spread(own, plan),), ())


def _experts(axes: tuple[str, ...], plan: NeuronPlan) -> Program:
    """Rank r has the experts of group r // parts, and part r % parts of their width."""
    groups = plan.expert_ranks
    parts = plan.tp // groups
    if "moe_ffn" in axes:
        axis = axes.index("moe_ffn")
        return (Pad(axis, plan.config.moe_ffn, plan.moe_ffn_padded), Shard(0, groups), Shard(axis, parts))
    copies: Op = Each(((Replicate(parts),),) * groups)
    return (Shard(0, groups), copies) if parts > 1 else (Shard(0, groups),)


def _padded_heads(axes: tuple[str, ...], axis: int, plan: NeuronPlan) -> Program:
    """Query heads in their slots: empty ones at the end of all, or of each group."""
    found = plan.heads
    total = len(found.queries)
    if found.queries == (*range(found.heads), *(None,) * (total - found.heads)):
        return (Pad(axis, found.heads, total),)
    group, slots = found.heads // found.kv_heads, total // found.kv_heads
    before, after = " ".join(axes[:axis]), " ".join(axes[axis + 1 :])
    apart, joined = f"{before} (kv q) {after}", f"{before} kv q {after}"
    return (
        Rearrange(f"{apart} -> {joined}", (("kv", found.kv_heads), ("q", group))),
        Pad(axis + 1, group, slots),
        Rearrange(f"{joined} -> {apart}", (("kv", found.kv_heads), ("q", slots))),
    )


def _kv_rows(plan: NeuronPlan) -> int:
    return plan.heads.kv_heads if plan.heads.split_columns else len(plan.heads.keys)


def _copied_heads(axis: int, plan: NeuronPlan) -> Program:
    """Kv heads in their slots; those whose columns are split stay as they are."""
    found = plan.heads
    if found.split_columns:
        return ()
    copies = found.replication
    return (Repeat(axis, copies), Pad(axis, found.kv_heads * copies, len(found.keys)))


def _flat(axes: tuple[str, ...], axis: int, plan: NeuronPlan, count: int) -> Program:
    """Join heads and head_dim, where a tensor has both, so that ranks can hold parts of heads."""
    if axes[axis + 1 : axis + 2] != ("head_dim",):
        return ()
    before, after = " ".join(axes[:axis]), " ".join(axes[axis + 2 :])
    sizes = (("head", count), ("dim", plan.heads.head_dim))
    return (Rearrange(f"{before} head dim {after} -> {before} (head dim) {after}", sizes),)
