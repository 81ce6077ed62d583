"""Plan of a model from a request, or its refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.targets.neuron.architectures import row_for
from compiler.targets.neuron.options import NeuronOptions, parse_lengths
from compiler.targets.neuron.plan import NeuronPlan, neuron_plan
from compiler.targets.protocols import Support

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.limits import Limits


def plan_of(config: ModelConfig, tp: int, limits: Limits, dtype: str, options: NeuronOptions) -> NeuronPlan:
    """Plan of `config` at `limits`. Raises RefusedError, UsageError."""
    more = parse_lengths("--batch-sizes", options.batch_sizes) or ()
    if wrong := [rows for rows in more if not 1 <= rows <= limits.max_batch]:
        raise RefusedError(
            f"`--batch-sizes` are 1 to {limits.max_batch} rows, the batch; found {wrong[0]}",
            hint="raise `--batch`, the largest",
        )
    return neuron_plan(
        config,
        tp,
        limits.max_positions,
        (*more, limits.max_batch),
        dtype,
        strategy=options.strategy,
        over_sequence=options.shard_over_sequence,
        token_buckets=parse_lengths("--buckets", options.buckets),
        context_buckets=parse_lengths("--context-buckets", options.context_buckets),
        weights="int8" if options.weights else "",
        continuous_batching=options.continuous_batching,
    )


class NeuronSupport(Support[NeuronOptions]):
    """Support of the architectures that have a row."""

    def check(self, config: ModelConfig, tp: int, options: NeuronOptions, limits: Limits | None = None) -> None:
        """Raise RefusedError without a row, or where heads, buckets or batches are impossible."""
        row_for(config)
        if limits is not None:
            plan_of(config, tp, limits, config.dtype, options)
