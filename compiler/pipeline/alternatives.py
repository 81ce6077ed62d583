"""Sizes of a planned model under every other quantization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.pipeline.support import CHOICES, taken
from compiler.quantization.prequantized.checkpoint import checked
from compiler.quantization.scale_tensors import scale_tensors

if TYPE_CHECKING:
    from compiler.pipeline.plan import Plan
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import Target


@dataclass(frozen=True)
class Alternative:
    """`weights`: bytes of the largest rank file, `cache`: of the KV cache, for a token on a rank; None where `quant` is
    refused, for the reason `refused`.
    """

    quant: Quant
    weights: int | None
    cache: int | None
    refused: str = ""

    @property
    def cache_tokens_in_a_gib(self) -> int | None:
        """Tokens that the KV caches of a rank hold in a GiB of its memory."""
        return (1 << 30) // self.cache if self.cache else None


def alternatives(plan: Plan, target: Target[Any]) -> list[Alternative]:
    """Every scheme and every quantized cache by itself, the unquantized model first."""
    return [_alternative(quant, plan, target) for quant in CHOICES]


def _alternative(quant: Quant, plan: Plan, target: Target[Any]) -> Alternative:
    options = plan.options.without_derived()
    try:
        found = taken(target, plan.config, checked(quant, plan.packed), plan.tp, options, plan.limits)
        checked(found.quant, plan.packed)
    except RefusedError as error:
        return Alternative(quant, None, None, error.message)
    elements = plan.kv_bytes_per_token // (1 if plan.quant.cache else ITEMSIZE[DTYPES[plan.dtype]])
    cache = elements * (1 if found.quant.cache else ITEMSIZE[DTYPES[plan.dtype]])
    return Alternative(quant, max(_weights(plan, target, found.scaling, found.options)), cache)


def _weights(plan: Plan, target: Target[Any], scaling: Scaling | None, options: TargetOptions) -> list[int]:
    """Bytes of every rank file. Where all layers are alike, two plans of few layers tell what more of them add: a plan
    of eighty takes a fifth of a second, and here are many.
    """
    layers, stages = plan.config.layers, max(len(plan.ranks) // plan.tp, 1)
    if len({kind.mlp for kind in plan.config.layer_kinds}) > 1 or layers % stages or layers <= 2 * stages:
        return _planned(plan, target, scaling, options, layers)
    once, twice = (_planned(plan, target, scaling, options, count * stages) for count in (1, 2))
    return [one + (two - one) * (layers // stages - 1) for one, two in zip(once, twice, strict=True)]


def _planned(
    plan: Plan, target: Target[Any], scaling: Scaling | None, options: TargetOptions, layers: int
) -> list[int]:
    """Bytes of the rank files of the first `layers` layers with all that is outside of layers."""
    config = replace(plan.config, layers=layers, layer_kinds=plan.config.layer_kinds[:layers])
    tensors = {t: found for t, found in plan.account.tensors.items() if t.layer is None or t.layer < layers}
    tensors = {**tensors, **scale_tensors(config, tensors, scaling)}
    if target.layout is None:
        return [plan.source_bytes // plan.tp]
    ranks = target.layout.rank_plans(config, plan.tp, tensors, DTYPES[plan.dtype], options)
    return [rank.nbytes for rank in ranks]
