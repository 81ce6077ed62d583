"""Plan of a model from a request, or its refusal."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.lmi.capacity import Demand, place, workspace_bytes
from compiler.lmi.instance_table import INSTANCES
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.quantization.vendors import NEURON_FORMAT, NEURON_SCHEME
from compiler.targets.neuron.architectures import row_for
from compiler.targets.neuron.drivers.choice import GRAPH, driver_of
from compiler.targets.neuron.layout import weight_plan
from compiler.targets.neuron.options import NeuronOptions, parse_lengths
from compiler.targets.neuron.parameters import parameters
from compiler.targets.neuron.plan import NeuronPlan, neuron_plan
from compiler.targets.neuron.platforms import PLATFORMS, check_degree, platform_of
from compiler.targets.neuron.presharded import check_presharded
from compiler.targets.protocols import Support

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.lmi.instance_table import Instance
    from compiler.model.config import ModelConfig
    from compiler.model.limits import Limits
    from compiler.quantization.request import Quant
    from compiler.targets.values import Planned


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
        weights=options.weights,
        continuous_batching=options.continuous_batching,
    )


class NeuronSupport(Support[NeuronOptions]):
    """Support of the architectures that have a row."""

    def check(self, config: ModelConfig, tp: int, options: NeuronOptions, limits: Limits | None = None) -> None:
        """Raise RefusedError without a row, for a tp without collectives, or where heads, buckets, batches or driver
        are impossible.
        """
        row_for(config)
        check_degree(tp, options.instance, partial(_splits, config, options))
        if limits is None:
            return
        plan = plan_of(config, tp, limits, config.dtype, options)
        driver = driver_of(options, plan)
        if options.presharded:
            check_presharded(config, plan.weights, driver.name if driver else GRAPH)

    def facts(self, plan: Planned[NeuronOptions]) -> Sequence[tuple[str, str]]:
        """Strategy of the heads, driver, buckets and rows."""
        found = plan_of(plan.config, plan.tp, plan.limits, plan.dtype, plan.options)
        driver, platform = driver_of(plan.options, found), platform_of(plan.options.instance)
        heads, buckets = found.heads, found.buckets
        empty = heads.padded_heads - heads.heads
        more = [f"{empty} empty query heads"] if empty else []
        more += [f"{heads.replication} copies of each kv head"] if heads.replication > 1 else []
        more += [f"cache over {heads.sequence_shards} ranks"] if heads.sequence_shards > 1 else []
        by = f"{driver.package}, SDK {driver.sdk}, for {driver.images[platform.name]}" if driver else "neuronx-cc"
        return [
            ("strategy", ", ".join([heads.strategy, *more])),
            ("driver", f"{driver.name if driver else GRAPH}: {by} on {plan.options.instance or platform.name}"),
            ("buckets", f"prompts {_listed(buckets.context)}, decode {_listed(buckets.token)}"),
            ("rows", _listed(found.batches) + (", continuous batching" if found.continuous_batching else "")),
        ]

    def quantized(self, config: ModelConfig, quant: Quant, options: NeuronOptions) -> tuple[Quant, NeuronOptions]:
        """Set `weights` of the options. Raises RefusedError for all but NEURON_SCHEME."""
        if quant.cache or quant.scheme is None or quant.scheme.name != NEURON_SCHEME:
            found = f"--kv-cache {quant.cache}" if quant.cache else f"--quant {quant.scheme and quant.scheme.name}"
            raise RefusedError(
                f"target `neuron` stores linear layers in {NEURON_FORMAT} with a scale for each row; found `{found}`",
                hint=f"`--quant {NEURON_SCHEME}`, or leave it out",
            )
        return quant, replace(options, weights=NEURON_FORMAT)

    def fitting(self, plan: Planned[NeuronOptions], instance: Instance) -> str:
        """Values of `--tp` and `--quant` for which the instance type has room, else other types that have."""
        if found := _fitting(plan, instance):
            return f"{instance.name} has room for {', '.join(found)}"
        others = [one for one in INSTANCES.values() if one.family in PLATFORMS]
        fits = {one.name: found[0] for one in others if (found := _fitting(plan, one))}
        return ", ".join(f"{name} has room for {how}" for name, how in list(fits.items())[:3])


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"


def _splits(config: ModelConfig, options: NeuronOptions, tp: int) -> bool:
    """Whether a strategy of the options splits a model over `tp` ranks."""
    try:
        weight_plan(config, tp, options)
    except RefusedError:
        return False
    return True


def _fitting(plan: Planned[NeuronOptions], instance: Instance) -> list[str]:
    """Requests for which an instance type has room, by the arithmetic of `lmi/capacity.py`."""
    found = []
    for weights in ("", NEURON_FORMAT):
        for tp in platform_of(instance.name).degrees:
            options = replace(plan.options, weights=weights)
            try:
                one = plan_of(plan.config, tp, plan.limits, plan.dtype, options)
            except RefusedError:
                continue
            if place(_demand(one, plan.limits), instance).copies:
                found.append(f"`--tp {tp}`" + (f" with `--quant {NEURON_SCHEME}`" if weights else ""))
    return found


def _demand(plan: NeuronPlan, limits: Limits) -> Demand:
    """Memory of one copy of a plan."""
    tokens = plan.batch * plan.sequence_length
    return Demand(
        ranks=plan.tp,
        weights=sum(prod(one.shape) * ITEMSIZE[one.dtype] for one in parameters(plan)),
        cache=-(-plan.cache_bytes // tokens),
        workspace=workspace_bytes(
            plan.config, plan.tp, ITEMSIZE[DTYPES[plan.dtype]], plan.batch, plan.sequence_length, limits.prefill_chunk
        ),
        batch=plan.batch,
        length=plan.sequence_length,
    )
