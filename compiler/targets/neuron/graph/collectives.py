"""Collectives between replicas as primitives of jax: plain replica groups, no channel and no mesh.

`jax.lax.psum` and its relatives need a mesh and lower to the form of partitions (channel ids, global device ids), which
transformers-neuronx never emits. These lower to StableHLO without either:

    all_reduce        replica_groups={{0,1,2,3}}    sum or maximum over the replicas of each group
    all_gather        the replicas' operands, one after the other along an axis
    all_to_all        part i of an axis goes to replica i of the group; the parts received are joined along another axis
    reduce_scatter    sum over a group, of which each replica keeps its part of an axis

Groups are tuples of replica ids; every replica is in one of them.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

Groups = tuple[tuple[int, ...], ...]
Reduction = Literal["sum", "maximum"]


def all_reduce(x: jax.Array, groups: Groups, reduction: Reduction = "sum") -> jax.Array:
    """Reduction of x over each group, in the shape and dtype of x."""
    return x if len(groups[0]) == 1 else _ALL_REDUCE.bind(x, groups=groups, reduction=reduction)


def all_gather(x: jax.Array, groups: Groups, axis: int) -> jax.Array:
    """The x of all replicas of each group, concatenated along `axis` in the order of the group."""
    return x if len(groups[0]) == 1 else _ALL_GATHER.bind(x, groups=groups, axis=axis)


def all_to_all(x: jax.Array, groups: Groups, split: int, concat: int) -> jax.Array:
    """Part r of axis `split` of every replica in the group of replica r, concatenated along axis `concat`."""
    return x if len(groups[0]) == 1 else _ALL_TO_ALL.bind(x, groups=groups, split=split, concat=concat)


def reduce_scatter(x: jax.Array, groups: Groups, axis: int) -> jax.Array:
    """Sum of x over each group; the i-th replica of a group keeps part i of `axis`."""
    return x if len(groups[0]) == 1 else _REDUCE_SCATTER.bind(x, groups=groups, axis=axis)


def everyone(replicas: int) -> Groups:
    """One group of all replicas."""
    return (tuple(range(replicas)),)


def neighbors(replicas: int, size: int) -> Groups:
    """Groups of `size` consecutive replicas."""
    return tuple(tuple(range(first, first + size)) for first in range(0, replicas, size))


def _primitive(name: str, abstract: Any, lowering: Any) -> Primitive:
    found = Primitive(f"neuron_{name}")
    found.def_abstract_eval(abstract)
    mlir.register_lowering(found, lowering)
    return found


def _resized(x: ShapedArray, *changes: tuple[int, int, int]) -> ShapedArray:
    """The array with each (axis, factor, divisor) applied to its shape."""
    shape = list(x.shape)
    for axis, factor, divisor in changes:
        if shape[axis] % divisor:
            raise ValueError(f"axis {axis} of {tuple(x.shape)} does not divide into {divisor} parts")
        shape[axis] = shape[axis] * factor // divisor
    return ShapedArray(tuple(shape), x.dtype)


def _groups(groups: Groups) -> ir.DenseElementsAttr:
    return ir.DenseIntElementsAttr.get(np.array(groups, np.int64))


def _i64(value: int) -> ir.IntegerAttr:
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


def _type(aval: ShapedArray, like: ir.Value) -> ir.Type:
    return ir.RankedTensorType.get(list(aval.shape), ir.RankedTensorType(like.type).element_type)


def _reducer(op: Any, like: ir.Value, reduction: Reduction) -> None:
    """Fill the region of a reduction with its computation on two scalars."""
    scalar = ir.RankedTensorType.get([], ir.RankedTensorType(like.type).element_type)
    block = op.regions[0].blocks.append(scalar, scalar)
    with ir.InsertionPoint(block):
        a, b = block.arguments
        stablehlo.return_([stablehlo.add(a, b) if reduction == "sum" else stablehlo.maximum(a, b)])


def _lower_all_reduce(_: Any, x: ir.Value, *, groups: Groups, reduction: Reduction) -> Any:
    op = stablehlo.AllReduceOp([x.type], [x], replica_groups=_groups(groups))
    _reducer(op, x, reduction)
    return op.results


def _lower_all_gather(ctx: Any, x: ir.Value, *, groups: Groups, axis: int) -> Any:
    out = _type(ctx.avals_out[0], x)
    return stablehlo.AllGatherOp([out], [x], all_gather_dim=_i64(axis), replica_groups=_groups(groups)).results


def _lower_all_to_all(_: Any, x: ir.Value, *, groups: Groups, split: int, concat: int) -> Any:
    return stablehlo.AllToAllOp(
        [x],
        split_dimension=_i64(split),
        concat_dimension=_i64(concat),
        split_count=_i64(len(groups[0])),
        replica_groups=_groups(groups),
    ).results


def _lower_reduce_scatter(ctx: Any, x: ir.Value, *, groups: Groups, axis: int) -> Any:
    out = _type(ctx.avals_out[0], x)
    op = stablehlo.ReduceScatterOp(out, x, scatter_dimension=_i64(axis), replica_groups=_groups(groups))
    _reducer(op, x, "sum")
    return op.results


_ALL_REDUCE = _primitive("all_reduce", lambda x, **_: ShapedArray(x.shape, x.dtype), _lower_all_reduce)
_ALL_GATHER = _primitive(
    "all_gather", lambda x, *, groups, axis: _resized(x, (axis, len(groups[0]), 1)), _lower_all_gather
)
_ALL_TO_ALL = _primitive(
    "all_to_all",
    lambda x, *, groups, split, concat: _resized(x, (split, 1, len(groups[0])), (concat, len(groups[0]), 1)),
    _lower_all_to_all,
)
_REDUCE_SCATTER = _primitive(
    "reduce_scatter", lambda x, *, groups, axis: _resized(x, (axis, 1, len(groups[0]))), _lower_reduce_scatter
)
