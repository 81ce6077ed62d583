"""Graphs of a plan, and the inputs and outputs of each: one list for lowering, execution and manifest.

    context    a prompt of up to `bucket` tokens per row, from position 0 on; writes the cache at these positions
    token      one token per row, at its own position; attention reads the first `bucket` positions of the cache

Inputs in order (the names are those of transformers-neuronx):

| name               | shape                    | dtype | meaning                                                      |
|--------------------|--------------------------|-------|--------------------------------------------------------------|
| token_ids          | [batch, tokens]          | I32   | padded on the right with any id                              |
| cache_ids          | [batch, tokens]          | I32   | position of each token; in a prompt 0, 1, 2 ...              |
| start_ids          | [batch]                  | I32   | row of the cache, read by prompts with continuous batching   |
| last_token_id      | [batch]                  | I32   | index, in its row, of the token whose logits are wanted      |
| layers.i.cache_k   | `NeuronPlan.cache_shape` | model | and layers.i.cache_v, layer by layer; finite                 |
| weights            | `parameters.parameters`  |       | `rank` last, where a graph needs it                          |

Outputs: logits float32 [batch, vocab_padded / tp], the rank's part of the vocabulary, then the caches in the order of
the inputs; each is in the buffer of its input.

Continuous batching: a prompt has one row, that of `start_ids`; rows of a decode graph are those of the cache. Without
it, row b of any graph is row b of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compiler.model.dtypes import DTYPES
from compiler.targets.neuron.parameters import parameters

if TYPE_CHECKING:
    from compiler.targets.neuron.plan import NeuronPlan

Kind = Literal["context", "token"]
STEP = ("token_ids", "cache_ids", "start_ids", "last_token_id")
"""Inputs that change from step to step."""


@dataclass(frozen=True)
class GraphSpec:
    """One graph of a plan: its kind, its bucket in tokens or positions, and its rows."""

    kind: Kind
    bucket: int
    batch: int

    @property
    def name(self) -> str:
        """Name of its file, without ending."""
        return f"{self.kind}_{self.bucket}_batch_{self.batch}"

    @property
    def file(self) -> str:
        """Name of its file, as neuronx-cc's cache names such files."""
        return f"{self.name}.hlo_module.pb"

    @property
    def tokens(self) -> int:
        """Tokens of each row."""
        return self.bucket if self.kind == "context" else 1


@dataclass(frozen=True)
class GraphArgument:
    """One input or output of a graph. `dtype`: safetensors' name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}


def graph_specs(plan: NeuronPlan) -> tuple[GraphSpec, ...]:
    """Graphs of a plan: every bucket with every batch size, prompts first."""
    context = [GraphSpec("context", n, rows) for n in plan.buckets.context for rows in plan.context_batches]
    token = [GraphSpec("token", n, rows) for n in plan.buckets.token for rows in plan.batches]
    return (*context, *token)


def caches(plan: NeuronPlan) -> tuple[GraphArgument, ...]:
    """Keys and values of every layer."""
    names = (f"layers.{layer}.cache_{part}" for layer in range(plan.config.layers) for part in ("k", "v"))
    return tuple(GraphArgument(name, plan.cache_shape, DTYPES[plan.dtype]) for name in names)


def inputs(plan: NeuronPlan, spec: GraphSpec) -> tuple[GraphArgument, ...]:
    """Inputs of a graph, in the order of its parameters."""
    tokens, row = (spec.batch, spec.tokens), (spec.batch,)
    step = tuple(GraphArgument(name, tokens if name in STEP[:2] else row, "I32") for name in STEP)
    weights = tuple(GraphArgument(one.name, one.shape, one.dtype) for one in parameters(plan))
    return (*step, *caches(plan), *weights)


def outputs(plan: NeuronPlan, spec: GraphSpec) -> tuple[GraphArgument, ...]:
    """Outputs of a graph, in the order of its result."""
    return (GraphArgument("logits", (spec.batch, plan.vocab_padded // plan.tp), "F32"), *caches(plan))


def aliases(plan: NeuronPlan) -> dict[int, int]:
    """Parameter number of the cache that each output overwrites, by the output's index."""
    return {1 + i: len(STEP) + i for i in range(2 * plan.config.layers)}


def described(plan: NeuronPlan, spec: GraphSpec) -> dict[str, Any]:
    """Facts of a graph for whoever runs it: order of its parameters and results, and the buffers that they share."""
    return {
        "kind": spec.kind,
        "bucket": spec.bucket,
        "batch": spec.batch,
        "inputs": [one.to_json() for one in inputs(plan, spec)],
        "outputs": [one.to_json() for one in outputs(plan, spec)],
        "aliases": {str(output): parameter for output, parameter in aliases(plan).items()},
    }
