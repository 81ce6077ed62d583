"""Tensors of a rank's shard, in the order of the graphs' parameters: the one list that shards and graphs read.

| tensor                        | shape on a rank                                  | split by              |
|-------------------------------|--------------------------------------------------|-----------------------|
| embed, position               | [vocab or positions, hidden_padded / tp]         | columns               |
| layers.i.attn.q               | [query_columns, hidden]                          | see heads.py          |
| layers.i.attn.k, .v           | [kv_columns, hidden]                             | see heads.py          |
| layers.i.attn.o               | [hidden, query_columns]                          | columns               |
| layers.i.mlp.gate, .up        | [ffn_padded / tp, hidden]                        | rows                  |
| layers.i.mlp.down             | [hidden, ffn_padded / tp]                        | columns               |
| layers.i.moe.gate, .up        | [experts of the rank, width of the rank, hidden] | experts, then rows    |
| layers.i.moe.down             | [experts of the rank, hidden, width of the rank] | experts, then columns |
| head                          | [vocab_padded / tp, hidden]                      | rows                  |
| norms, router                 | whole                                            |                       |
| biases of o and down          | [hidden]: whole on rank 0, zeros on the others   |                       |
| other biases                  | rows as of their weight                          |                       |
| .scale, with int8 weights     | rows as of their weight, float32                 |                       |
| rank                          | [1] int32, the rank's number: from the host      |                       |

A tied head has a tensor of its own, since it is split along the other axis. `rank` is in no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from compiler.model.dtypes import DTYPES
from compiler.model.programs import stored_axes
from compiler.model.roles import TensorId, axis_sizes, model_tensors
from compiler.targets.neuron.plan import NeuronPlan

RANK = "rank"
"""Name of the parameter with the rank's number, last where a graph needs it: [1], int32."""
QUANTIZED = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down",
             "moe.gate", "moe.up", "moe.down")  # fmt: skip
"""Roles whose weights are int8 with `NeuronPlan.weights`."""


@dataclass(frozen=True)
class GraphParameter:
    """One parameter of a graph. `dtype`: safetensors' name. `tensor`: canonical tensor; None: RANK."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    tensor: TensorId | None


def parameters(plan: NeuronPlan) -> tuple[GraphParameter, ...]:
    """Parameters of a rank's weights, the same for all ranks, in the order of computation."""
    dtype, found = DTYPES[plan.dtype], list[GraphParameter]()
    for tensor in rank_tensors(plan):
        shape = shard_shape(tensor, plan)
        rounded = plan.weights and tensor.role in QUANTIZED and tensor.part == "weight"
        found.append(GraphParameter(str(tensor), shape, "I8" if rounded else dtype, tensor))
        if rounded:
            scale = replace(tensor, part="scale")
            found.append(GraphParameter(str(scale), shape[:-1], "F32", scale))
    if needs_rank(plan):
        found.append(GraphParameter(RANK, (1,), "I32", None))
    return tuple(found)


def needs_rank(plan: NeuronPlan) -> bool:
    """Whether graphs compute with the number of their rank: to find its experts, or its part of batch or sequence."""
    return plan.config.experts > 0 or plan.heads.sequence_shards > 1 or plan.heads.batch_shards > 1


def rank_tensors(plan: NeuronPlan) -> list[TensorId]:
    """Canonical tensors of a shard, with the head of a tied model before its bias."""
    found = model_tensors(plan.config)
    if plan.config.tied:
        place = len(found) - plan.config.head_bias
        found.insert(place, TensorId("head"))
    return found


def shard_shape(tensor: TensorId, plan: NeuronPlan) -> tuple[int, ...]:
    """Shape of a tensor on one rank."""
    sizes = axis_sizes(plan.config) | _split_sizes(plan)
    if tensor.role in ("embed", "position"):
        return axis_sizes(plan.config)[tensor.axes[0]], plan.hidden_padded // plan.tp
    if tensor.role == "moe.router":
        sizes["experts"] = plan.config.experts
    rows: dict[tuple[str, ...], int] = {
        ("heads", "head_dim"): plan.heads.query_columns,
        ("kv_heads", "head_dim"): plan.heads.kv_columns,
    }
    groups = stored_axes(tensor.role, tensor.part)
    return tuple(rows.get(group[:2]) or prod(sizes[axis] for axis in group) for group in groups)


def _split_sizes(plan: NeuronPlan) -> dict[str, int]:
    """Sizes on one rank of the axes that ranks divide, besides heads."""
    return {
        "vocab": plan.vocab_padded // plan.tp,
        "ffn": plan.ffn_padded // plan.tp,
        "experts": plan.experts_per_rank,
        "moe_ffn": plan.moe_ffn_padded // (plan.tp // plan.expert_ranks),
    }
